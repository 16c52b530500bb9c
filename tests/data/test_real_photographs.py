"""Four hundred real photographs with their boxes, from shards without an index."""

import json
import os
from pathlib import Path

import pytest
import torch

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardDataModule, ShardIndex, shard_batches
from lit_iba.data.decode import decode_boxes
from lit_iba.data.tar_samples import TarSamples

FOLDER = Path(os.environ.get("LIT_IBA_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real photographs are not here"),
]


def test_four_hundred_photographs_are_read_with_their_boxes() -> None:
    index = ShardIndex.load(FOLDER / "imagenet_val_boxes-{000000..000003}.tar")
    assert index.total == 400
    batches = [
        batch for shard in index.shards for batch in shard_batches(shard, Preprocessing(), 50)
    ]
    assert sum(int(batch["weight"].sum()) for batch in batches) == 400
    assert len({key for batch in batches for key in batch["key"]}) == 400
    shares = torch.cat([batch["object_mask"].float().mean(dim=(1, 2)) for batch in batches])
    assert (shares > 0).float().mean() > 0.99  # the central crop cuts off an object or two
    assert 0.2 < shares.mean() < 0.6
    labels = torch.cat([batch["label"] for batch in batches])
    assert 0 <= labels.min() < labels.max() < 1000


def test_boxes_cover_less_than_a_third_of_279_photographs() -> None:
    small = 0
    for shard in ShardIndex.load(FOLDER / "imagenet_val_boxes-*.tar").shards:
        reader = TarSamples(shard.path)
        while (sample := reader.next()) is not None:
            described = json.loads(sample.members["json"])
            covered = sum(
                (x1 - x0) * (y1 - y0)
                for x0, y0, x1, y1 in decode_boxes(sample.members["json"], sample.key)
            )
            small += covered / (described["width"] * described["height"]) < 0.33
        reader.close()
    assert small == 279


@pytest.mark.slow
def test_training_on_photographs_is_reproducible_and_augmented() -> None:
    def loader() -> list[dict[str, torch.Tensor]]:
        data = ShardDataModule(
            str(FOLDER / "imagenette_train-000000.tar"), augment=True, batch_size=20, num_workers=2
        )
        data.setup("fit")
        return list(data.train_dataloader())

    first, second = loader(), loader()
    assert all(torch.equal(a["picture"], b["picture"]) for a, b in zip(first, second, strict=True))
    plain = ShardDataModule(
        str(FOLDER / "imagenette_train-000000.tar"), batch_size=20, num_workers=2
    )
    plain.setup("fit")
    unaugmented = next(iter(plain.train_dataloader()))
    assert unaugmented["key"] == first[0]["key"]
    assert not torch.equal(unaugmented["picture"], first[0]["picture"])

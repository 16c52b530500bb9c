"""Four hundred real photographs with their boxes, from shards without an index."""

import os
from pathlib import Path

import pytest
import torch

from lit_iba.data import ShardDataModule, ShardIndex, shard_batches
from lit_iba.data.decode import decode_boxes
from lit_iba.data.tar_samples import TarSamples
from lit_iba.preprocessing import Preprocessing

FOLDER = Path(os.environ.get("LIT_IBA_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real photographs are not here"),
]


def test_four_hundred_photographs_are_read_with_their_boxes() -> None:
    index = ShardIndex.load(FOLDER / "imagenet_val_boxes-{000000..000003}.tar")
    assert index.total == 400
    batches = [batch for shard in index.shards for batch in shard_batches(shard, Preprocessing(), 50)]
    assert sum(int(batch["weight"].sum()) for batch in batches) == 400
    assert len({key for batch in batches for key in batch["key"]}) == 400
    assert all(batch["object_mask"].flatten(1).any(dim=1).all() for batch in batches)
    labels = torch.cat([batch["label"] for batch in batches])
    assert 0 <= labels.min() < labels.max() < 1000


def test_boxes_cover_less_than_a_third_of_279_photographs() -> None:
    small = 0
    for shard in ShardIndex.load(FOLDER / "imagenet_val_boxes-*.tar").shards:
        reader = TarSamples(shard.path)
        while (sample := reader.next()) is not None:
            import json

            described = json.loads(sample.members["json"])
            boxes = decode_boxes(sample.members["json"], sample.key)
            # A square picture of the whole photograph, fine enough to measure areas.
            across = torch.arange(described["width"] * 4) / 4 + 0.125
            down = torch.arange(described["height"] * 4) / 4 + 0.125
            mask = torch.zeros(len(down), len(across), dtype=torch.bool)
            for x0, y0, x1, y1 in boxes:
                mask |= ((down >= y0) & (down < y1))[:, None] & ((across >= x0) & (across < x1))[None, :]
            small += mask.float().mean().item() < 0.33
        reader.close()
    assert small == 279


def test_training_on_photographs_is_reproducible_and_augmented() -> None:
    def loader() -> list[dict[str, torch.Tensor]]:
        data = ShardDataModule(str(FOLDER / "imagenette_train-000000.tar"), augment=True, batch_size=20, num_workers=2)
        data.setup("fit")
        return list(data.train_dataloader())

    first, second = loader(), loader()
    assert all(torch.equal(a["picture"], b["picture"]) for a, b in zip(first, second, strict=True))
    plain = ShardDataModule(str(FOLDER / "imagenette_train-000000.tar"), batch_size=20, num_workers=2)
    plain.setup("fit")
    unaugmented = next(iter(plain.train_dataloader()))
    assert unaugmented["key"] == first[0]["key"]
    assert not torch.equal(unaugmented["picture"], first[0]["picture"])

"""The embedded digits: deterministic, with boxes that hold their mask, made once whoever starts."""

import io
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_iba.data import QuickstartDataModule, ShardIndex
from lit_iba.data.import_folder import shards_from_quickstart
from lit_iba.data.quickstart import QuickstartSettings, _digits, make_quickstart, quickstart_samples
from lit_iba.errors import InputError

SMALL = QuickstartSettings(train=24, val=8, test=8, shard_size=10, val_shard_size=4)


def test_boxes_are_small_and_fit_their_masks() -> None:
    areas = []
    for sample in quickstart_samples("train", 300):
        mask = np.asarray(Image.open(io.BytesIO(sample["mask.png"]))) > 0
        ((x0, y0, x1, y1),) = sample["json"]["bbox"]
        inside = np.zeros_like(mask)
        inside[y0:y1, x0:x1] = True
        assert not (mask & ~inside).any()
        assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()  # noqa: PT018
        areas.append(inside.mean())
    assert 0.06 < min(areas) < max(areas) < 0.28
    assert 0.1 < np.mean(areas) < 0.2


def test_digits_stand_out_from_photographs_that_differ() -> None:
    pictures, outside, contrast = [], [], []
    for sample in quickstart_samples("val", 100):
        picture = np.asarray(Image.open(io.BytesIO(sample["jpg"])), dtype=float)
        mask = np.asarray(Image.open(io.BytesIO(sample["mask.png"]))) > 0
        ((x0, y0, x1, y1),) = sample["json"]["bbox"]
        around = np.zeros_like(mask)
        around[y0:y1, x0:x1] = True
        grey = picture @ [0.299, 0.587, 0.114]
        pictures.append(picture)
        outside.append(grey[~mask].std())
        contrast.append(abs(grey[mask].mean() - grey[around & ~mask].mean()))
    assert np.std(pictures, axis=0).min() > 20
    assert np.median(outside) > 20  # clutter
    assert np.quantile(contrast, 0.05) > 50


def test_splits_have_different_digits_of_all_classes() -> None:
    splits = [_digits(split) for split in ("train", "val", "test")]
    assert sum(len(digits) for digits, _ in splits) == 1797
    assert all(set(labels.tolist()) == set(range(10)) for _, labels in splits)
    as_bytes = [{digit.tobytes() for digit in digits} for digits, _ in splits]
    assert not as_bytes[0] & as_bytes[1]
    assert not as_bytes[0] & as_bytes[2]


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    indices = [shards_from_quickstart(tmp_path / name, SMALL) for name in ("a", "b")]
    other = shards_from_quickstart(tmp_path / "c", QuickstartSettings(24, 8, 8, 10, 4, seed=1))
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        identities = {index[split].identity() for index in indices}
        assert len(identities) == 1
        assert other[split].identity() not in identities
        assert indices[0][split].total == count
        assert len(indices[0][split].shards) > 1


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    make_quickstart(tmp_path / "q", SMALL)
    with pytest.raises(InputError, match="was made with"):
        make_quickstart(tmp_path / "q", QuickstartSettings(seed=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a finished quickstart data set"):
        make_quickstart(tmp_path / "other", SMALL)
    assert (tmp_path / "other/thesis.tex").exists()


def test_two_processes_may_start_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=make_quickstart, args=(tmp_path / "q", SMALL)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    ShardIndex.load(tmp_path / "q/train").verify(hashes=True)


def test_the_data_module_makes_its_shards_and_reads_them(tmp_path: Path) -> None:
    data = QuickstartDataModule(
        str(tmp_path / "q"), train_samples=40, val_samples=10, test_samples=10, batch_size=8
    )
    data.prepare_data()
    data.setup()
    assert data.class_names == [str(digit) for digit in range(10)]
    for loader, count in (
        (data.train_dataloader(), 40),
        (data.val_dataloader(), 10),
        (data.test_dataloader(), 10),
    ):
        batches = list(loader)
        assert sum(int(batch["weight"].sum()) for batch in batches) == count
        shares = [
            m.float().mean()
            for b in batches
            for m, w in zip(b["object_mask"], b["weight"], strict=True)
            if w
        ]
        assert 0.02 < min(shares) < max(shares) < 0.28
    assert json.loads((tmp_path / "q/quickstart.json").read_text())["train"] == 40

"""Shards from arrays hold the very pictures and labels; what does not fit is refused."""

import hashlib
import pickle

import numpy as np
import pytest
import torchvision.datasets

from lit_iba import InputError, Preprocessing
from lit_iba.cli.main import main
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.data.import_arrays import CIFAR10_CLASSES, is_arrays, shards_from_arrays

PICTURES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(11) % 10


def saved(path, **changes):
    arrays = {
        "x_train": PICTURES,
        "y_train": LABELS,
        "x_test": PICTURES[:4],
        "y_test": LABELS[:4],
    } | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def content(folder):
    found = {}
    for shard in ShardIndex.load(folder).shards:
        for batch in shard_batches(shard, Preprocessing(resize=None, crop=8), 4):
            for key, picture, label in zip(
                batch["key"], batch["picture"], batch["label"].tolist(), strict=True
            ):
                if key:
                    found[key] = (picture.permute(1, 2, 0).numpy(), label)
    return found


def test_pictures_and_labels_come_back_exactly_in_a_mixed_order(tmp_path):
    assert (
        main(["shards", str(saved(tmp_path / "a.npz")), str(tmp_path / "out"), "--shard_size", "5"])
        == 0
    )
    train, test = content(tmp_path / "out" / "train"), content(tmp_path / "out" / "test")
    assert (len(train), len(test)) == (11, 4)
    for key, (picture, label) in train.items():
        i = int(key.removeprefix("train"))
        assert np.array_equal(picture, PICTURES[i])
        assert label == LABELS[i]
    assert list(train) != sorted(train)


def test_cifar10_is_read_as_torchvision_keeps_it(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng, listed = np.random.default_rng(1), {}
    data = {f"data_batch_{i}": rng.integers(0, 256, (2, 3072), dtype=np.uint8) for i in range(1, 6)}
    data["test_batch"] = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    files = {
        name: {"data": values, "labels": list(range(len(values)))} for name, values in data.items()
    }
    for name, values in {**files, "batches.meta": {"label_names": list(CIFAR10_CLASSES)}}.items():
        content_of = pickle.dumps(values)
        (folder / name).write_bytes(content_of)
        listed[name] = hashlib.md5(content_of).hexdigest()
    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "train_list", [[n, listed[n]] for n in files if n != "test_batch"])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", listed["test_batch"]]])
    monkeypatch.setattr(
        dataset, "meta", dataset.meta | {"filename": "batches.meta", "md5": listed["batches.meta"]}
    )
    assert is_arrays(tmp_path)
    assert is_arrays(folder)
    indices = shards_from_arrays(folder, tmp_path / "out", progress=False)
    assert (indices["train"].total, indices["test"].total) == (10, 3)
    assert indices["test"].class_names == list(CIFAR10_CLASSES)
    (folder / "test_batch").write_bytes(b"cut short")
    with pytest.raises(InputError, match="not a complete CIFAR-10"):
        shards_from_arrays(tmp_path, tmp_path / "again", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "x_test"),
        ({"y_train": LABELS[:3]}, "whole numbers"),
        ({"x_train": PICTURES.astype(np.float32)}, "uint8"),
        ({"y_train": LABELS.astype(object)}, "cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        shards_from_arrays(saved(tmp_path / "a.npz", **changes), tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="does not exist"):
        shards_from_arrays(tmp_path / "b.npz", tmp_path / "out", progress=False)

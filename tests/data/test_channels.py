"""Pictures of any number of channels, wider than high, through shards, folders and loaders."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_toys import SIZE, STORED, encoded, make_pictures, picture

from lit_iba import InputError, Preprocessing
from lit_iba.data import ImageFolderDataModule, ShardDataModule, ShardIndex, shard_batches
from lit_iba.data import write_shards as write
from lit_iba.data.import_arrays import shards_from_arrays
from lit_iba.data.import_folder import shards_from_folder


def seen(channels: int) -> Preprocessing:
    many = (0.5,) * channels
    return Preprocessing(resize=None, crop=SIZE, mean=many, std=many)


def central(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, ...) as (..., rows, columns) of the crop."""
    top, left = (STORED[0] - SIZE[0]) // 2, (STORED[1] - SIZE[1]) // 2
    cut = torch.from_numpy(pixels)[top : top + SIZE[0], left : left + SIZE[1]]
    return cut.permute(*range(2, cut.ndim), 0, 1)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_a_batch_has_the_stored_values_and_the_box(channels: int, tmp_path: Path) -> None:
    shard = make_pictures(tmp_path, channels, 4).shards[0]
    (batch,) = shard_batches(shard, seen(channels), 4)
    for number, found in enumerate(batch["picture"]):
        pixels, box = picture(number, channels)
        assert torch.equal(found, central(pixels))
        mask = np.zeros(STORED, dtype=bool)
        if box:
            mask[box[1] : box[3], box[0] : box[2]] = True
        assert torch.equal(batch["object_mask"][number], central(mask))
    assert batch["picture"].is_contiguous(memory_format=torch.channels_last)


def test_a_training_epoch_crops_channels_and_box_alike(tmp_path: Path) -> None:
    make_pictures(tmp_path, 12, 8)
    data = ShardDataModule(
        train=str(tmp_path), preprocessing=seen(12), batch_size=4, num_workers=0, augment=True
    )
    data.setup("fit")
    bright = objects = 0
    for batch in data.train_dataloader():
        last = batch["picture"][:, -1]
        assert last.shape == (4, *SIZE)
        objects += int(batch["object_mask"].sum())
        bright += int(((last > 180) == batch["object_mask"])[batch["object_mask"]].sum())
    assert bright > 0.8 * objects > 0


def test_folders_and_arrays_hold_other_channels_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "square"
    folder.mkdir(parents=True)
    (folder / "a.npy").write_bytes(encoded(picture(1, 12)[0])[1])
    (tmp_path / "boxes.csv").write_text("filename,xmin,ymin,xmax,ymax\na.npy,1,4,7,10\n")
    data = ImageFolderDataModule(
        test=str(tmp_path / "folder"),
        boxes=str(tmp_path / "boxes.csv"),
        preprocessing=seen(12),
        batch_size=1,
    )
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert torch.equal(batch["picture"][0], central(picture(1, 12)[0]))
    assert int(batch["object_mask"].sum()) == 36 - 6  # one column is cut off
    index = shards_from_folder(
        tmp_path / "folder", tmp_path / "shards", tmp_path / "boxes.csv", progress=False
    )
    (again,) = shard_batches(index.shards[0], seen(12), 1)
    assert all(torch.equal(again[name], batch[name]) for name in ("picture", "object_mask"))
    for channels in (1, 2):
        pixels = np.stack([picture(n, channels)[0] for n in range(2)])
        stored = pixels[..., 0] if channels == 1 else pixels
        arrays = {
            f"{k}_{n}": v for n in ("train", "test") for k, v in (("x", stored), ("y", [0, 1]))
        }
        np.savez(tmp_path / f"{channels}.npz", **arrays)
        out = tmp_path / f"arrays{channels}"
        made = shards_from_arrays(tmp_path / f"{channels}.npz", out, progress=False)
        (batch,) = shard_batches(made["test"].shards[0], seen(channels), 2)
        order = [int(key[-6:]) for key in batch["key"]]
        assert torch.equal(batch["picture"], torch.stack([central(pixels[n]) for n in order]))


def test_photographs_are_grey_for_one_channel_and_others_are_refused_at_once(
    tmp_path: Path,
) -> None:
    shard = make_pictures(tmp_path / "rgb", 3, 4).shards[0]
    (batch,) = shard_batches(shard, seen(1), 2)
    grey = central(picture(1, 3)[0]).permute(1, 2, 0).double() @ torch.tensor(
        [0.299, 0.587, 0.114], dtype=torch.float64
    )
    assert (batch["picture"][1, 0].double() - grey).abs().max() <= 1
    # It is not one damaged picture among many: the whole data set is of another kind.
    with pytest.raises(InputError, match=r"sample 'p000' of .* has 3 channels .* takes 12"):
        next(shard_batches(shard, seen(12), 2))
    data = ShardDataModule(train=str(tmp_path / "rgb"), preprocessing=seen(4), batch_size=2)
    data.setup("fit")
    with pytest.raises(InputError, match=r"has 3 channels \(RGB\), but the classifier takes 4"):
        next(iter(data.train_dataloader()))


def one(tmp_path: Path, **members: bytes) -> ShardIndex:
    return write([{"key": "a", **members}], tmp_path)


def test_of_a_photograph_and_an_array_each_network_reads_its_own(tmp_path: Path) -> None:
    photograph, array = (encoded(picture(1, c)[0])[1] for c in (3, 12))
    shard = one(tmp_path, png=photograph, npy=array).shards[0]
    for channels in (3, 12):
        (batch,) = shard_batches(shard, seen(channels), 1)
        assert torch.equal(batch["picture"][0], central(picture(1, channels)[0]))


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"no array", "objects", "cut"])
def test_a_damaged_array_is_a_hole(data: bytes | str, tmp_path: Path) -> None:
    if isinstance(data, str):
        buffer = io.BytesIO()
        objects = np.array([{}] * 3, dtype=object)
        np.save(buffer, objects if data == "objects" else picture(0, 12)[0], allow_pickle=True)
        data = buffer.getvalue() if data == "objects" else buffer.getvalue()[:-1]
    (batch,) = shard_batches(one(tmp_path, npy=data).shards[0], seen(12), 1)
    assert batch["corrupt"].tolist() == [1]


def test_an_array_is_written_as_a_file(tmp_path: Path) -> None:
    pixels = picture(1, 12)[0]
    shard = write([{"key": "a", "npy": pixels}], tmp_path / "good").shards[0]
    (batch,) = shard_batches(shard, seen(12), 1)
    assert torch.equal(batch["picture"][0], central(pixels))
    for member in ({"npy": np.array([object()])}, {"jpg": pixels}):
        with pytest.raises(InputError, match=r"sample 'a' has a ndarray .* give the bytes"):
            write([{"key": "a", **member}], tmp_path / "bad")

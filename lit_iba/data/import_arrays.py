"""Shards from pictures in arrays: CIFAR-10 as torchvision keeps it, or an ``.npz``. Pictures become
PNG, or ``.npy`` where they are neither grey nor RGB, without loss.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from lit_iba.checks import check_counts
from lit_iba.data.decode import ARRAY, array_header
from lit_iba.data.shard_writer import write_shards
from lit_iba.data.shards import ShardIndex
from lit_iba.errors import InputError
from lit_iba.limits import check_zip
from lit_iba.randomness import generator_for

CIFAR10 = "cifar-10-batches-py"
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def is_arrays(path: str | Path) -> bool:
    """Whether a path names what :func:`shards_from_arrays` reads."""
    path = Path(path)
    return path.suffix == ".npz" or (path / CIFAR10).is_dir() or path.name == CIFAR10


def shards_from_arrays(
    path: str | Path,
    out: str | Path,
    shard_size: int = 1000,
    class_names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, ShardIndex]:
    """Write training and test pictures to ``out/train`` and ``out/test``, each in an order drawn
    once from ``seed``.

    Args:
        path: A folder that holds ``cifar-10-batches-py`` (or that folder), whose content is checked
            by torchvision; or an ``.npz`` with ``x_train`` and ``x_test``, uint8 (N, H, W) of grey
            pictures or (N, H, W, C), and ``y_train`` and ``y_test``, whole numbers (N,).
        out: Where to; its folders must not hold an index yet.
        shard_size: Pictures per shard.
        class_names: Name of each class, for the index; CIFAR-10's own where None.
        seed: Seeds the order.
        progress: Whether to show a progress bar.

    Returns:
        The indices by name.

    Raises:
        InputError: The file is missing or damaged, or its arrays do not fit.
    """
    check_counts(0, seed=seed)
    path = Path(path)
    sets = _from_npz(path) if path.suffix == ".npz" else _from_cifar10(path)
    names = (
        list(class_names)
        if class_names
        else list(CIFAR10_CLASSES)
        if path.suffix != ".npz"
        else None
    )
    written = {}
    for name, (pictures, labels) in sets.items():
        order = torch.randperm(len(labels), generator=generator_for(seed, name)).tolist()
        samples = _samples(name, pictures, labels, order)
        shown = track(
            samples, f"writing {name}", total=len(order), transient=True, disable=not progress
        )
        written[name] = write_shards(shown, Path(out) / name, name, shard_size, names)
    return written


def _samples(
    name: str, pictures: np.ndarray, labels: np.ndarray, order: list[int]
) -> Iterator[dict[str, Any]]:
    for i in order:
        picture, buffer, kind = pictures[i], io.BytesIO(), "png"
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[:, :, 0]
        if picture.ndim == 2 or picture.shape[2] == 3:
            Image.fromarray(picture).save(buffer, "PNG")
        else:
            kind = ARRAY
            np.save(buffer, picture)
        yield {"key": f"{name}{i:06d}", kind: buffer.getvalue(), "cls": int(labels[i])}


def _from_cifar10(path: Path) -> Arrays:
    from torchvision.datasets import CIFAR10 as Dataset

    root = path.parent if path.name == CIFAR10 else path
    try:
        sets = {"train": Dataset(str(root), train=True), "test": Dataset(str(root), train=False)}
    except RuntimeError as error:  # torchvision compares checksums before it unpickles
        raise InputError(
            f"{root / CIFAR10} is not a complete CIFAR-10 ({error}); fetch it again"
        ) from error
    return {name: (found.data, np.asarray(found.targets)) for name, found in sets.items()}


def _check_arrays(path: Path) -> None:
    """Compare what the arrays' headers say with the bytes that follow, before numpy makes room."""
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                shape, dtype = array_header(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} says that it is {shape}, and is smaller")


def _from_npz(path: Path) -> Arrays:
    try:
        _check_arrays(path)
        with np.load(path, allow_pickle=False) as file:
            sets = {name: (file[f"x_{name}"], file[f"y_{name}"]) for name in ("train", "test")}
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; give an .npz with x_train, y_train, x_test and y_test"
        ) from error
    except InputError:
        raise
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it must hold x_train, y_train, x_test, y_test"
        ) from error
    for name, (pictures, labels) in sets.items():
        good = pictures.dtype == np.uint8 and pictures.ndim in (3, 4) and labels.ndim == 1
        if not good or len(labels) != len(pictures) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"{path}: x_{name} is {pictures.dtype} {pictures.shape} and y_{name} {labels.dtype}"
                f" {labels.shape}; they must be uint8 (N, H, W) or (N, H, W, C) and whole"
                " numbers (N,)"
            )
    return sets

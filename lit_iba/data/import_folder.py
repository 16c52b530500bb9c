"""Shards from a folder of pictures, and from the embedded data set. Pictures are copied byte for
byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from lit_iba.checks import check_counts
from lit_iba.data.image_folder import FolderImage, ImageFolder
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.data.shard_writer import write_shards
from lit_iba.data.shards import ShardIndex
from lit_iba.randomness import generator_for


def shards_from_folder(
    folder: str | Path,
    out: str | Path,
    boxes: str | Path | None = None,
    shard_size: int = 1000,
    class_names: Sequence[str] | None = None,
    *,
    prefix: str = "shard",
    seed: int = 0,
    progress: bool = True,
) -> ShardIndex:
    """Write the pictures of ``folder/<class>/`` as shards, in an order drawn once from ``seed``.

    Training shuffles shards, and samples inside blocks only, so the classes must be mixed here.

    Args:
        folder: Holds a folder for each class.
        out: Where the shards go; must not hold an index yet.
        boxes: A folder of Pascal VOC files, or a CSV file with the columns
            ``filename,xmin,ymin,xmax,ymax``.
        shard_size: Pictures per shard.
        class_names: Names of the folders in the order of their labels; by default they are sorted.
        prefix: How shard names begin.
        seed: Seeds the order.
        progress: Whether to show a progress bar.

    Raises:
        InputError: Pictures, classes or boxes are missing, or a file is no picture.
    """
    check_counts(0, seed=seed)
    found = ImageFolder.load(folder, boxes, class_names)
    order = torch.randperm(len(found.images), generator=generator_for(seed, "shards")).tolist()
    images = track(
        (found.images[i] for i in order),
        "writing shards",
        total=len(order),
        transient=True,
        disable=not progress,
    )
    return write_shards(_samples(images), out, prefix, shard_size, found.class_names)


def _samples(images: Any) -> Iterator[dict[str, Any]]:
    image: FolderImage
    for image in images:
        described: dict[str, Any] = {"bbox": image.stored_boxes()}
        if size := image.size():
            described |= dict(zip(("width", "height"), size, strict=True))
        yield {
            "key": image.key,
            image.extension: image.path.read_bytes(),
            "cls": image.label,
            "json": described,
        }


def shards_from_quickstart(
    out: str | Path, settings: QuickstartSettings | None = None
) -> dict[str, ShardIndex]:
    """Write the embedded digits to ``out/train``, ``out/val`` and ``out/test``; returns their
    indices by name.

    Raises:
        InputError: ``out`` holds something else.
    """
    folder = make_quickstart(out, settings)
    return {split: ShardIndex.load(folder / split) for split in ("train", "val", "test")}

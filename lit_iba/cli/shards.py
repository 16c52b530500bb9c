"""``shards``: pictures of any kind as shards."""

from __future__ import annotations

ARGUMENTS = [
    (
        "folder",
        None,
        "pictures, a folder for each class; CIFAR-10's folder; an .npz; or the word embedded",
    ),
    ("out", None, "where to"),
]


def shards(
    folder: str,
    out: str,
    boxes: str | None = None,
    shard_size: int = 1000,
    class_names: list[str] | None = None,
    prefix: str = "shard",
    seed: int = 0,
) -> None:
    """Write shards from a folder of pictures (``folder/<class>/*.jpg``, ``.png`` or ``.npy``),
    CIFAR-10, arrays, or the embedded data.

    Args:
        folder: Pictures, a folder for each class; a folder with ``cifar-10-batches-py`` in it (as
            torchvision keeps CIFAR-10), or an ``.npz`` with x_train, y_train, x_test, y_test, both
            to ``out/train`` and ``out/test``; or the word ``embedded`` for the embedded digits.
        out: Where the shards go.
        boxes: Pascal VOC files in a folder, or a CSV file with the columns
            filename,xmin,ymin,xmax,ymax.
        shard_size: Pictures per shard.
        class_names: Names of the class folders in the order of their labels; by default they are
            sorted.
        prefix: How shard names begin.
        seed: Seeds the order.
    """
    from lit_iba.data.import_arrays import is_arrays, shards_from_arrays
    from lit_iba.data.import_folder import shards_from_folder, shards_from_quickstart

    if is_arrays(folder):
        found = shards_from_arrays(folder, out, shard_size, class_names, seed=seed)
        written = {f"{out}/{split}": index for split, index in found.items()}
    elif folder == "embedded":
        written = {f"{out}/{split}": index for split, index in shards_from_quickstart(out).items()}
    else:
        index = shards_from_folder(
            folder, out, boxes, shard_size, class_names, prefix=prefix, seed=seed
        )
        written = {out: index}
    for place, index in written.items():
        print(f"{place}: {index.total} samples in {len(index.shards)} shards")

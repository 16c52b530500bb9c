"""``shards``: pictures of any kind as shards, and an index for shards of others."""

from __future__ import annotations

from typing import Any

ARGUMENTS = [
    (
        "folder",
        None,
        "pictures, a folder for each class; CIFAR-10's folder; an .npz; the word embedded; or with"
        " --index_only shards",
    ),
    ("out", "?", "where to; with --index_only beside the shards unless it is given"),
]


def shards(
    folder: str,
    out: str | None = None,
    boxes: str | None = None,
    shard_size: int = 1000,
    class_names: list[str] | None = None,
    prefix: str = "shard",
    seed: int = 0,
    index_only: bool = False,
    label: str = "cls",
    storage_options: dict[str, Any] | None = None,
) -> None:
    """Write shards from a folder of pictures (``folder/<class>/*.jpg``, ``.png`` or ``.npy``),
    CIFAR-10, arrays, or the embedded data; or an index for shards that others wrote.

    Args:
        folder: Pictures, a folder for each class; a folder with ``cifar-10-batches-py`` in it (as
            torchvision keeps CIFAR-10), or an ``.npz`` with x_train, y_train, x_test, y_test, both
            to ``out/train`` and ``out/test``; or the word ``embedded`` for the embedded digits.
            With ``index_only`` shards: a folder or a pattern, here or in a bucket.
        out: Where the shards go; with ``index_only`` the folder of the index.
        boxes: Pascal VOC files in a folder, or a CSV file with the columns
            filename,xmin,ymin,xmax,ymax.
        shard_size: Pictures per shard.
        class_names: Names of the class folders in the order of their labels; by default they are
            sorted.
        prefix: How shard names begin.
        seed: Seeds the order.
        index_only: Whether to leave shards as they are and write an index.json for them.
        label: With ``index_only``, where the class of a sample stands: ``cls``, ``txt``, or a field
            such as ``json.label`` or ``json.synset``.
        storage_options: With ``index_only``, what the bucket's fsspec driver takes.
    """
    from lit_iba.errors import InputError

    if index_only:
        from lit_iba.data import Remote, index_shards

        remote = Remote(storage_options=storage_options or {})
        index = index_shards(folder, out, label, class_names, remote=remote)
        _say(out or folder, index)
        return
    if out is None:
        raise InputError("out is missing; say where the shards go: lit-iba shards FOLDER OUT")
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
        _say(place, index)


def _say(place: str, index: Any) -> None:
    classes = f", {len(index.class_names)} classes" if index.class_names else ""
    print(f"{place}: {index.total} samples in {len(index.shards)} shards{classes}")

"""Writing samples into shards, with their index."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from lit_iba.checks import check_counts
from lit_iba.data.decode import ARRAY, EXTENSIONS, PICTURE_EXTENSIONS
from lit_iba.data.shard import INDEX_NAME, Shard, is_file_name
from lit_iba.data.shards import ShardIndex
from lit_iba.errors import InputError
from lit_iba.files import sha256_of, whole_file

# Nothing of the time, the user or the samples' types; POSIX takes names of any length and letters.
_FIXED: dict[str, Any] = {
    "encoder": False,
    "mtime": 0,
    "user": "",
    "group": "",
    "mode": 0o644,
    "format": "PAX_FORMAT",
}


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    folder: str | Path,
    prefix: str = "shard",
    shard_size: int = 1000,
    class_names: Sequence[str] | None = None,
) -> ShardIndex:
    """Write samples as ``<prefix>-000000.tar`` and so on, and their index last.

    Equal samples give equal bytes. Each shard appears whole or not at all; a folder without an
    index is unfinished.

    Args:
        samples: Mappings with ``key`` (unique, no dot), a picture under ``jpg``, ``png`` or ``npy``
            (a file's bytes; for ``npy`` also an array, uint8 (H, W, C)), and optionally ``cls``
            (int), ``json`` (a dict with ``bbox``) and ``mask.png`` (bytes).
        folder: Where to; must not hold an index yet.
        prefix: How shard names begin.
        shard_size: Samples in each shard but the last.
        class_names: Name of each class, for the index.

    Raises:
        InputError: The folder holds shards already, a key repeats or has a dot, a member is
            unknown, or nothing came.

    Example:
        >>> from lit_iba.data import write_shards
        >>> from pathlib import Path
        >>> jpeg = Path("photographs/cat/0.jpg").read_bytes()
        >>> write_shards([{"key": "a", "jpg": jpeg, "cls": 0}], "new", class_names=["cat"]).total
        1
    """
    from webdataset.writer import TarWriter

    folder = Path(folder)
    if (folder / INDEX_NAME).exists():
        raise InputError(
            f"{folder} holds shards already; choose another folder, or delete it first"
        )
    check_counts(shard_size=shard_size)
    if not is_file_name(f"{prefix}-000000.tar") or prefix.startswith("."):
        raise InputError(f"prefix is {prefix!r}; it begins the name of a file in {folder}")
    shards: list[Shard] = []
    keys: set[str] = set()
    stream = iter(samples)
    for first in stream:
        path = folder / f"{prefix}-{len(shards):06d}.tar"
        before = len(keys)
        with whole_file(path) as part, part.open("wb") as file, TarWriter(file, **_FIXED) as tar:
            for sample in chain([first], islice(stream, shard_size - 1)):
                key, members = _members(sample, keys)
                for extension, data in members.items():  # in the sample's order, not sorted
                    tar.write({"__key__": key, extension: data})
        shards.append(Shard(path, len(keys) - before, path.stat().st_size, sha256_of(path)))
    if not shards:
        raise InputError(f"there are no samples to write to {folder}; check where they come from")
    index = ShardIndex(tuple(shards), list(class_names) if class_names is not None else None)
    index.save(folder)
    return index


def _members(sample: Mapping[str, Any], keys: set[str]) -> tuple[str, dict[str, bytes]]:
    """The key of a sample, and the bytes of its members; ``keys`` gets its key."""
    key = str(sample["key"])
    parts = key.split("/")
    if not all(map(is_file_name, parts)) or "." in parts[-1] or key in keys:
        raise InputError(
            f"{key!r} cannot be a sample's key; it must be new, not empty, without a dot, and lead"
            " nowhere else"
        )
    if not any(extension in sample for extension in PICTURE_EXTENSIONS):
        raise InputError(
            f"sample {key!r} has no picture; give its bytes under 'jpg', 'png' or 'npy'"
        )
    members: dict[str, bytes] = {}
    for extension, value in sample.items():
        if extension == "key":
            continue
        if extension not in EXTENSIONS:
            raise InputError(
                f"sample {key!r} has a member {extension!r}; known are {', '.join(EXTENSIONS)}"
            )
        members[extension] = _bytes_of(key, extension, value)
    keys.add(key)
    return key, members


def _bytes_of(key: str, extension: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        if extension == ARRAY and isinstance(value, np.ndarray):
            np.save(file := io.BytesIO(), value, allow_pickle=False)
            return file.getvalue()
        return json.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"sample {key!r} has a {type(value).__name__} under {extension!r} that cannot be"
            f" written ({error}); give the bytes of a file"
        ) from error

"""Bounds on what a file may ask for, compared before the work is begun: a file of a few kilobytes
can stand for gigabytes.

Each can be raised by an environment variable, which workers and processes inherit.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from lit_iba.errors import InputError

LIMITS = {
    "PICTURE_PIXELS": 50_000_000,  # of one photograph or mask
    "SHARDS": 100_000,  # that one pattern stands for
    "INDEX_BYTES": 1 << 28,  # of an index.json, wherever it lies
    "SHARD_BYTES": 1 << 36,  # of a shard elsewhere whose size is not known
    "EXPANSION": 100,  # how many times its own size a compressed file may have inside
    "SIDE": 8192,  # of the classifier's images, in pixels
    "CLASSES": 1_000_000,
}
_SMALL = 1 << 26  # bytes that anything may have inside


def limit(name: str) -> int:
    """A limit by name, as ``LIT_IBA_MAX_<name>`` says or else ``LIMITS``.

    Raises:
        InputError: The variable is no whole number of at least 1.
    """
    given = os.environ.get(f"LIT_IBA_MAX_{name}")
    if given is None:
        return LIMITS[name]
    if not (given.isdigit() and 0 < len(given) < 19 and int(given)):
        raise InputError(
            f"LIT_IBA_MAX_{name} is {given!r}; it must be a whole number of at least 1"
        )
    return int(given)


def check_limit(name: str, value: int, what: str) -> None:
    """Refuse ``what`` where its number is above a limit; the sentence says how to raise it.

    Example:
        >>> from lit_iba.limits import check_limit
        >>> check_limit("SIDE", 64, "the side of an image")
    """
    if value > limit(name):
        raise InputError(
            f"{what} is {value:,}, more than {limit(name):,}; if that is right, set"
            f" LIT_IBA_MAX_{name} in the environment"
        )


def largest_content(compressed: int) -> int:
    """Bytes that a file of so many bytes may have inside."""
    return max(_SMALL, compressed * limit("EXPANSION"))


def check_expansion(inside: int, path: Path) -> None:
    """Refuse a compressed file that holds more than :func:`largest_content`."""
    size = path.stat().st_size
    if inside > largest_content(size):
        raise InputError(
            f"{path} has {size:,} bytes but holds {inside:,} or more; if that is right, set"
            " LIT_IBA_MAX_EXPANSION (how many times larger) in the environment"
        )


def check_zip(path: Path) -> None:
    """Refuse a zip (a checkpoint, an ``.npz``) that says it holds far more than its size; other
    files pass.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_expansion(sum(member.file_size for member in archive.infolist()), path)

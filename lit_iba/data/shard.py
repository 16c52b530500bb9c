"""One shard: a tar of samples (WebDataset), on this machine or elsewhere, and how its samples are
counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lit_iba.data.labels import LabelRule
from lit_iba.data.remote import Remote, file_name
from lit_iba.data.tar_samples import ENDINGS, RawSample, ShardFile, TarSamples, open_shard
from lit_iba.errors import InputError

INDEX_NAME = "index.json"


@dataclass(frozen=True)
class Shard:
    """One tar: where it is, and how many samples and bytes it holds.

    Args:
        path: Of a file; for a shard elsewhere only its name counts.
        count: Number of samples.
        bytes: Size of the file.
        sha256: Of the file, where it is known.
        url: Where it lives, if not on this machine.
        remote: How it is fetched from there.
        label: Where the classes of its samples stand; None for their ``cls`` members.
    """

    path: Path
    count: int
    bytes: int
    sha256: str | None = None
    url: str | None = None
    remote: Remote | None = None
    label: LabelRule | None = None

    def open_binary(self) -> BinaryIO:
        """Open the file, after fetching it where it lives elsewhere.

        Raises:
            InputError: It is missing, cannot be fetched, or is not the one that was indexed.
        """
        if self.url is not None:
            return (self.remote or Remote()).open(self.url, self.bytes, self.sha256)
        file = open_shard(self.path)
        if (size := os.fstat(file.fileno()).st_size) != self.bytes:
            file.close()
            raise InputError(
                f"shard {self.path} has {size:,} bytes, but the index says {self.bytes:,}; "
                f"fetch it again, or delete {INDEX_NAME} to have the shards counted again"
            )
        return file

    @property
    def name(self) -> str:
        """File name, such as ``val-000012.tar``."""
        return self.path.name

    @property
    def stem(self) -> str:
        """File name without ``.tar``: what results made from this shard are called."""
        ending = next((e for e in ENDINGS if self.name.endswith(e)), "")
        return self.name.removesuffix(ending)


def count_shard(
    shard: Path | ShardFile,
    others: set[str] | None = None,
    seen: Callable[[RawSample], None] | None = None,
) -> int:
    """Count a shard's samples by reading its headers.

    Args:
        shard: The shard.
        others: Keys of the shards before it, to which its own are added.
        seen: Called with every sample, which is then read whole.

    Raises:
        InputError: It is truncated, damaged, empty, or two of the samples share a key.
    """
    keys: set[str] = set() if others is None else others
    before, name = len(keys), shard if isinstance(shard, Path) else shard.name
    with closing(TarSamples(shard)) as samples:
        while (sample := samples.next(wanted=seen is not None)) is not None:
            if sample.key in keys:
                raise InputError(
                    f"shard {name} holds a sample with key {sample.key!r}, as it or another shard"
                    " does before; give each sample a key of its own"
                )
            keys.add(sample.key)
            if seen is not None:
                seen(sample)
    if samples.damage:
        raise InputError(f"shard {name} is damaged: {samples.damage}; fetch or write it again")
    if len(keys) == before:
        raise InputError(f"shard {name} holds no samples; leave it out")
    return len(keys) - before


@dataclass(frozen=True)
class _Fetched:
    """A shard that has been fetched to be counted."""

    name: str
    file: BinaryIO

    def open_binary(self) -> BinaryIO:
        return self.file


def counted(
    place: Path | str,
    remote: Remote | None = None,
    others: set[str] | None = None,
    seen: Callable[[RawSample], None] | None = None,
    hashed: bool = False,
) -> Shard:
    """A shard that no index describes, from its file, or from an address, which fetches all of it.

    Args:
        place: Its path, or its address.
        remote: How it is fetched from an address.
        others: As in :func:`count_shard`.
        seen: As in :func:`count_shard`.
        hashed: Whether to take its SHA-256, which reads all of it.

    Raises:
        InputError: As :func:`count_shard`, or it cannot be had.
    """
    file = (remote or Remote()).open(place) if isinstance(place, str) else open_shard(place)
    size = os.fstat(file.fileno()).st_size
    sha256 = hashlib.file_digest(file, "sha256").hexdigest() if hashed else None  # type: ignore[arg-type]
    file.seek(0)
    count = count_shard(_Fetched(str(place), file), others, seen)
    if isinstance(place, str):
        return Shard(Path(file_name(place)), count, size, sha256, place, remote)
    return Shard(place, count, size, sha256)


def is_file_name(name: str) -> bool:
    """Whether a name stands for a file in the folder that it is looked up in, and nowhere else."""
    return name.isprintable() and 0 < len(name) < 256 and Path(name).name == name and name != ".."

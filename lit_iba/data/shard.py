"""One shard: a tar of samples (WebDataset), on this machine or elsewhere, and how its samples are
counted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lit_iba.data.remote import Remote, file_name
from lit_iba.data.tar_samples import TarSamples, open_shard
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
    """

    path: Path
    count: int
    bytes: int
    sha256: str | None = None
    url: str | None = None
    remote: Remote | None = None

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
        return self.path.name.removesuffix(".tar")


def count_shard(path: Path, others: set[str] | None = None) -> Shard:
    """Count a shard's samples by reading its headers.

    Args:
        path: The shard.
        others: Keys of the shards before it, to which its own are added.

    Raises:
        InputError: It is truncated, damaged, empty, or two of the samples share a key.
    """
    keys: set[str] = set() if others is None else others
    before = len(keys)
    with closing(TarSamples(path)) as samples:
        while (sample := samples.next(wanted=False)) is not None:
            if sample.key in keys:
                raise InputError(
                    f"shard {path} holds a sample with key {sample.key!r}, as it or another shard"
                    " does before; give each sample a key of its own"
                )
            keys.add(sample.key)
    if samples.damage:
        raise InputError(f"shard {path} is damaged: {samples.damage}; fetch or write it again")
    if len(keys) == before:
        raise InputError(f"shard {path} holds no samples; leave it out")
    return Shard(path, len(keys) - before, path.stat().st_size)


def count_remote_shard(url: str, remote: Remote) -> Shard:
    """Count the samples of a shard that lives elsewhere, which fetches all of it."""
    with remote.open(url) as file, tempfile.NamedTemporaryFile(suffix=".tar") as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        counted = count_shard(Path(copy.name))
    return Shard(Path(file_name(url)), counted.count, counted.bytes, None, url, remote)


def is_file_name(name: str) -> bool:
    """Whether a name stands for a file in the folder that it is looked up in, and nowhere else."""
    return name.isprintable() and 0 < len(name) < 256 and Path(name).name == name and name != ".."

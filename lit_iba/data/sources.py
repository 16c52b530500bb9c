"""Where raw samples come from: the shards of a data set, opened one at a time, and the names
of what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from lit_iba.data.batch import Hole
from lit_iba.data.shard import Shard
from lit_iba.data.tar_samples import RawSample, TarSamples


class Reader(Protocol):
    """One shard that is being read, front to back."""

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | Hole]:
        """What is in the given ascending slots."""
        ...

    def close(self) -> None:
        """Free its file."""
        ...


class SampleSource(Protocol):
    """Where raw samples come from; must pickle, for workers that are not forked."""

    def counts(self) -> torch.Tensor:
        """Number of samples in each shard, int64 (S,)."""
        ...

    def contents(self) -> dict[str, list[Any]]:
        """Lists of plain values, as far as they are known, that tell this data from other data of
        as many samples, wherever it lies.
        """
        ...

    def open(self, number: int) -> Reader:
        """Start reading a shard."""
        ...


def fingerprint_of(source: SampleSource) -> dict[str, str]:
    """SHA-256 of everything that an order of a source's samples rests on, by its name."""
    known = {"counts": source.counts().tolist(), **source.contents()}
    return {k: hashlib.sha256(json.dumps(v).encode()).hexdigest() for k, v in known.items()}


@dataclass(frozen=True)
class Place:
    """Where a sample is: the number of its shard, its slot in it, and its key."""

    shard: int
    slot: int
    key: str


@runtime_checkable
class ListedSource(SampleSource, Protocol):
    """A source that knows its samples' names without decoding them."""

    def listing(self) -> list[tuple[str, list[Place]]]:
        """Every sample, in groups that are evaluated together, each with the name of the group."""
        ...


@dataclass(frozen=True)
class ShardSource:
    """Tars on disk."""

    shards: tuple[Shard, ...]

    def counts(self) -> torch.Tensor:
        """Number of samples in each shard, int64 (S,)."""
        return torch.tensor([shard.count for shard in self.shards])

    def contents(self) -> dict[str, list[Any]]:
        """The shards' sizes, and their hashes if an index has them."""
        hashes = [shard.sha256 for shard in self.shards]
        sizes = {"sizes": [shard.bytes for shard in self.shards]}
        return sizes if None in hashes else {**sizes, "hashes": hashes}

    def open(self, number: int) -> Reader:
        """Start reading a shard."""
        return ShardReader(self.shards[number])

    def listing(self) -> list[tuple[str, list[Place]]]:
        """Every sample, shard by shard; reads the shards' headers."""
        return [(str(s.path), _places(number, s)) for number, s in enumerate(self.shards)]


def _places(number: int, shard: Shard) -> list[Place]:
    with closing(TarSamples(shard)) as samples:
        keys = [s.key if (s := samples.next(wanted=False)) else "" for _ in range(shard.count)]
    return [Place(number, slot, key or f"{shard.stem}[{slot}]") for slot, key in enumerate(keys)]


class ShardReader:
    """Reads a shard by slots; what the index counts but the file does not hold becomes a hole."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._samples = TarSamples(shard)

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | Hole]:
        for slot, sample in zip(slots, self._samples.read(slots), strict=True):
            if sample is not None:
                rule = self._shard.label
                yield sample if rule is None else rule.applied(sample)
                continue
            damage = self._samples.damage or "it holds fewer samples than the index counts"
            yield Hole(f"{self._shard.stem}[{slot}]", f"shard {self._shard.path}: {damage}")

    def close(self) -> None:
        self._samples.close()

"""Batches out of shards, in the order of the plan, at any position, by any number of workers.

A sample that cannot be decoded, or that its shard does not hold any more, keeps its slot with
weight 0 and is counted, so shapes and steps never change silently; what was lost is reported at the
end of an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import Batch, BatchMaker, Hole
from lit_iba.data.plan import EpochOrder, SamplePlan
from lit_iba.data.shard import Shard
from lit_iba.data.sources import Reader, SampleSource, ShardReader
from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError

_log = logging.getLogger(__name__)

Slot = RawSample | Hole | None
SampleMaker = Callable[[Sequence[Slot], int], tuple[Batch, list[Hole]]]  # such as BatchMaker


@dataclass(frozen=True)
class Failure:
    """An error that a worker met, carried to the main process without a worker's traceback around
    it.
    """

    message: str


class BatchStream(IterableDataset[Any]):
    """Yields (batch, holes) of one process, from the position that :meth:`seek` set.

    Args:
        source: Where samples come from.
        plan: Their order.
        make: Decodes and stacks.
        rank: Number of this process; given, because workers cannot ask for it.
        left: Places of the epoch's stream that the plan is for; None for all. Then there is only
            this one epoch.
    """

    def __init__(
        self,
        source: SampleSource,
        plan: SamplePlan,
        make: SampleMaker,
        rank: int = 0,
        left: torch.Tensor | None = None,
    ) -> None:
        self.source = source
        self.plan = plan
        self.make = make
        self.rank = rank
        self.left = left
        # Shared, so that workers which live longer than an epoch see where the next one begins.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()

    def seek(self, epoch: int, batches: int) -> None:
        """Begin the next iteration at a batch of an epoch; nothing before it is read."""
        self._position.copy_(torch.tensor([epoch, batches]))

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch."""
        return EpochOrder(self.plan, epoch, self.left)

    def __iter__(self) -> Iterator[tuple[Batch, list[Hole]] | Failure]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, done = self._position.tolist()
        reading = _Reading(
            self.source, self.order(epoch), self.rank, range(done + first, self.plan.steps, stride)
        )
        try:
            for step in reading.steps:
                yield self.make(reading.slots(step), epoch)
        except InputError as error:
            yield Failure(str(error))
        finally:
            reading.close()


class _Reading:
    """One worker's pass over its steps of an epoch: reads a block at a time, each shard once from
    front to back.
    """

    def __init__(self, source: SampleSource, order: EpochOrder, rank: int, steps: range) -> None:
        self.steps = steps
        self._source = source
        self._order = order
        self._rank = rank
        self._readers: dict[int, tuple[int, Reader]] = {}  # lane -> the shard it is in
        self._blocks: dict[
            int, tuple[int, dict[int, Slot]]
        ] = {}  # lane -> number of its block, position -> sample

    def slots(self, step: int) -> list[Slot]:
        """The raw samples of one batch; their memory is given back."""
        lane, number = self._order.plan.block_of(step)
        if lane not in self._blocks or self._blocks[lane][0] != number:
            self._blocks[lane] = (number, self._fetch(step, lane, number))
        held = self._blocks[lane][1]
        return [held.pop(position) for position in self._order.positions(self._rank, step).tolist()]

    def _fetch(self, step: int, lane: int, number: int) -> dict[int, Slot]:
        """Everything of a block that this worker will deliver, from a step on."""
        plan = self._order.plan
        last = (number + 1) * plan.block * plan.lanes  # the block's steps end before this one
        mine = [
            s
            for s in range(step, min(last, plan.steps), self.steps.step)
            if plan.block_of(s) == (lane, number)
        ]
        positions = torch.cat([self._order.positions(self._rank, s) for s in mine]).sort().values
        shards, slots = self._order.locate(positions)
        fetched: dict[int, Slot] = {}
        rows = zip(shards.tolist(), slots.tolist(), positions.tolist(), strict=True)
        for shard, group in groupby(rows, key=itemgetter(0)):
            _, here, places = zip(*group, strict=True)
            found = self._reader(lane, shard).read(here) if shard >= 0 else [None] * len(here)
            fetched.update(zip(places, found, strict=True))
        return fetched

    def _reader(self, lane: int, shard: int) -> Reader:
        """The lane's open shard, or the next one; a lane never goes back."""
        if lane not in self._readers or self._readers[lane][0] != shard:
            if lane in self._readers:
                self._readers[lane][1].close()
            self._readers[lane] = (shard, self._source.open(shard))
        return self._readers[lane][1]

    def close(self) -> None:
        for _, reader in self._readers.values():
            reader.close()


def report_holes(holes: Sequence[Hole], total: int, where: str) -> None:
    """Log once what was lost: how many, which, and why the first of them."""
    names = ", ".join(hole.key for hole in holes[:10]) + (", ..." if len(holes) > 10 else "")
    _log.warning(
        "%s: %d of %d samples could not be decoded and were left out: %s (%s)",
        where,
        len(holes),
        total,
        names,
        holes[0].reason,
    )


def shard_batches(
    shard: Shard, preprocessing: Preprocessing, batch_size: int = 16, num_classes: int | None = None
) -> Iterator[Batch]:
    """The batches of one shard in the file's order, the last one shorter, without padding; for
    evaluation.

    Every slot that the index counts is there; what cannot be decoded has weight 0, corrupt 1, and
    is logged at the end.

    Args:
        shard: Which shard.
        preprocessing: Size and crop of the pictures.
        batch_size: Samples per batch.
        num_classes: Labels outside 0..num_classes-1 are errors; None accepts any.

    Raises:
        InputError: The shard does not exist, or a label is out of range.

    Example:
        >>> from lit_iba.data import ShardIndex, shard_batches
        >>> shard = ShardIndex.load("digits/test").shards[0]
        >>> batches = shard_batches(shard, classifier.preprocessing, batch_size=3)
        >>> [len(batch["key"]) for batch in batches]
        [3, 3, 2]
    """
    make, reader, holes = BatchMaker(preprocessing, num_classes), ShardReader(shard), []
    try:
        for first in range(0, shard.count, batch_size):
            slots = range(first, min(first + batch_size, shard.count))
            batch, lost = make(list(reader.read(slots)))
            holes += lost
            yield batch
    finally:
        reader.close()
    if holes:
        report_holes(holes, shard.count, f"shard {shard.path}")

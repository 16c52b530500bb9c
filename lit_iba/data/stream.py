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

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import Batch, BatchMaker, Hole
from lit_iba.data.plan import EpochOrder, SamplePlan
from lit_iba.data.shards import Shard, ShardIndex
from lit_iba.data.sources import Reader, SampleSource, ShardReader, ShardSource
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
                batch, holes = self.make(reading.slots(step), epoch)
                yield {name: _small(value) for name, value in batch.items()}, holes
        except InputError as error:
            yield Failure(str(error))
        finally:
            reading.close()


def _small(value: Any) -> Any:
    """Small tensors as arrays: these go through the workers' queue without a shared file of their
    own.
    """
    return value.numpy() if isinstance(value, torch.Tensor) and value.ndim == 1 else value


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


class SampleLoader:
    """A sized, seekable loader: iterating it once is one epoch (or the rest of one, after
    :meth:`seek`).

    In evaluation every iteration begins at the front.

    Args:
        stream: What to load.
        num_workers: Worker processes; 0 reads in this one.
        max_corrupt_fraction: Fraction of the data set that may be undecodable before an epoch ends
            in an error; None means 0.01 in training and 0 in evaluation.
        multiprocessing_context: How workers start: ``"fork"``, ``"spawn"``, ``"forkserver"``; None
            is Python's default.
        parts: What earlier runs took of this epoch, each in its own arrangement (see
            ``left_of_epoch``). Their batches count for the length, as they do for Lightning; such a
            loader serves the rest of one epoch.

    Example:
        >>> from lit_iba.data import ShardIndex, shard_loader
        >>> index = ShardIndex.load("digits/test")
        >>> loader = shard_loader(index, classifier.preprocessing, batch_size=4)
        >>> len(loader), type(loader).__name__
        (2, 'SampleLoader')
    """

    def __init__(
        self,
        stream: BatchStream,
        num_workers: int = 0,
        max_corrupt_fraction: float | None = None,
        multiprocessing_context: str | None = None,
        parts: Sequence[dict[str, int]] = (),
    ) -> None:
        self.stream = stream
        self.plan = stream.plan
        default = 0.01 if self.plan.training else 0.0
        self.max_corrupt_fraction = (
            default if max_corrupt_fraction is None else max_corrupt_fraction
        )
        self._loader: DataLoader[Any] = DataLoader(
            stream,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context=multiprocessing_context if num_workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
        )
        self.parts = list(parts)
        self.before = sum(part["batches"] for part in self.parts)
        self.epoch = 0
        self.batches = 0  # handed out in this epoch, by this plan
        self._sought = False

    def __len__(self) -> int:
        return self.before + self.plan.steps

    def seek(self, epoch: int, batches: int = 0) -> None:
        """Set where the next iteration begins; a finished epoch means the next one.

        Args:
            epoch: Number of the epoch.
            batches: Batches of it that this plan has handed out already.
        """
        finished, self.batches = (1, 0) if batches >= self.plan.steps else (0, batches)
        self.epoch = epoch + finished
        self._sought = True

    def state_dict(self) -> dict[str, Any]:
        """Empty: the data module keeps the position. That it exists tells Lightning that this
        loader can be resumed.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do; see :meth:`seek`."""

    def __iter__(self) -> Iterator[Batch]:
        if not self._sought and self.batches > 0:
            if self.parts:
                raise RuntimeError(
                    "this loader is for the rest of one epoch; make another for the next one"
                )
            self.epoch, self.batches = (self.epoch + 1 if self.plan.training else 0), 0
        self._sought = False
        first = self.batches
        self.stream.seek(self.epoch, first)
        holes: list[Hole] = []
        valid = 0
        for item in self._items():
            if isinstance(item, Failure):
                raise InputError(item.message)
            small, lost = item
            batch = {
                k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in small.items()
            }
            holes += lost
            valid += int(batch["weight"].sum())
            if len(holes) > self.max_corrupt_fraction * self.plan.total:
                raise InputError(_too_many(holes, self.max_corrupt_fraction, self.plan.total))
            self.batches += 1
            yield batch
        expected = self.stream.order(self.epoch).samples(self.stream.rank, first)
        if valid + len(holes) != expected:
            raise RuntimeError(
                f"{valid} valid and {len(holes)} corrupt samples do not add up to {expected}"
            )
        if holes:
            report_holes(holes, expected, f"epoch {self.epoch}")

    def _items(self) -> Iterator[Any]:
        try:
            yield from self._loader
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            # A worker that dies while it hands over a batch breaks the connection before torch says
            # that it is gone.
            if not worker_killed(error) and isinstance(error, RuntimeError):
                raise
            raise InputError(killed_worker_message(error)) from error


def worker_killed(error: BaseException) -> bool:
    """Whether an error is torch's of a killed loader worker; its signal handler raises it wherever
    the process happens to be.
    """
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def killed_worker_message(error: BaseException) -> str:
    """What a user can do about a killed worker."""
    return (
        f"a worker process of the loader was killed ({str(error) or type(error).__name__}); often memory ran out: use fewer "
        "workers, a smaller batch_size or block, and resume"
    )


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


def _too_many(holes: Sequence[Hole], fraction: float, total: int) -> str:
    names = ", ".join(hole.key for hole in holes[:5]) + (", ..." if len(holes) > 5 else "")
    return (
        f"{len(holes)} of {total} samples could not be decoded so far ({names}; {holes[0].reason}), more than "
        f"max_corrupt_fraction={fraction} allows; mend them or raise it"
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
        batch_size: Samples a batch.
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


def shard_loader(
    index: ShardIndex,
    preprocessing: Preprocessing,
    batch_size: int = 16,
    *,
    training: bool = False,
    num_workers: int = 0,
    seed: int = 0,
) -> SampleLoader:
    """A loader over shards for one process, without Lightning; see :class:`SampleLoader` and
    ``ShardDataModule``.

    Example:
        >>> from lit_iba.data import ShardIndex, shard_loader
        >>> index = ShardIndex.load("digits/test")
        >>> loader = shard_loader(index, classifier.preprocessing, batch_size=4)
        >>> next(iter(loader))["picture"].shape
        torch.Size([4, 3, 64, 64])
    """
    source = ShardSource(index.shards)
    plan = SamplePlan(
        source.counts(), batch_size, lanes=max(1, num_workers), seed=seed, training=training
    )
    num_classes = len(index.class_names) if index.class_names else None
    return SampleLoader(
        BatchStream(source, plan, BatchMaker(preprocessing, num_classes)), num_workers
    )

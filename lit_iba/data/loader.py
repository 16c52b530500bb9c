"""The loader of batches: sized, seekable, counting what could not be read, and waiting for no
worker without a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import Batch, BatchMaker, Hole
from lit_iba.data.plan import SamplePlan
from lit_iba.data.shards import ShardIndex
from lit_iba.data.sources import ShardSource
from lit_iba.data.stream import BatchStream, Failure, report_holes
from lit_iba.data.workers import (
    WORKER_TIMEOUT,
    WorkerWatch,
    killed_worker_message,
    silent_worker_message,
    stream_loader,
    worker_killed,
)
from lit_iba.errors import InputError


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
            is ``"forkserver"`` where there are several processes, and else Python's default.
        parts: What earlier runs took of this epoch, each in its own arrangement (see
            ``left_of_epoch``). Their batches count for the length, as they do for Lightning; such a
            loader serves the rest of one epoch.
        repeats: Whether every epoch has the first one's order and augmentation, as Lightning's
            ``overfit_batches`` asks for.
        worker_timeout: Seconds that a batch is waited for before the wait ends with an error.

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
        repeats: bool = False,
        worker_timeout: float = WORKER_TIMEOUT,
    ) -> None:
        self.stream, self.repeats = stream, repeats
        self.plan = stream.plan
        default = 0.01 if self.plan.training else 0.0
        self.max_corrupt_fraction = (
            default if max_corrupt_fraction is None else max_corrupt_fraction
        )
        self._start = partial(stream_loader, stream, num_workers, multiprocessing_context)
        self._loader = self._start()
        self._watch = WorkerWatch(worker_timeout)
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

    def close(self) -> None:
        """End the workers; another iteration starts others."""
        self._watch.end()
        self._loader = self._start()

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
        order = 0 if self.repeats else self.epoch
        self.stream.seek(order, first)
        holes: list[Hole] = []
        valid = 0
        for item in self._items():
            if isinstance(item, Failure):
                raise InputError(item.message)
            batch, lost = item
            holes += lost
            valid += int(batch["weight"].sum())
            if len(holes) > self.max_corrupt_fraction * self.plan.total:
                raise InputError(_too_many(holes, self.max_corrupt_fraction, self.plan.total))
            self.batches += 1
            yield batch
        expected = self.stream.order(order).samples(self.stream.rank, first)
        if valid + len(holes) != expected:
            raise RuntimeError(
                f"{valid} valid and {len(holes)} corrupt samples do not add up to {expected}"
            )
        if holes:
            report_holes(holes, expected, f"epoch {self.epoch}")

    def _items(self) -> Iterator[Any]:
        try:
            yield from self._watch.batches(self._loader)
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            # A worker that dies while it hands over a batch breaks the connection before torch says
            # that it is gone.
            if self._watch.expired:
                raise InputError(silent_worker_message(self._watch.patience)) from error
            if not worker_killed(error) and isinstance(error, RuntimeError):
                raise
            raise InputError(killed_worker_message(error)) from error


def _too_many(holes: Sequence[Hole], fraction: float, total: int) -> str:
    names = ", ".join(hole.key for hole in holes[:5]) + (", ..." if len(holes) > 5 else "")
    return (
        f"{len(holes)} of {total} samples could not be decoded so far ({names}; {holes[0].reason}),"
        f" more than max_corrupt_fraction={fraction} allows; mend them or raise it"
    )


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

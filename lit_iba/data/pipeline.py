"""Samples that come from elsewhere than shards: from a data set with a length, in the plan's order
(see plan.py), or from a pipeline that only goes forward, in its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lit_iba.data.batch import Batch, Hole
from lit_iba.data.decode import DAMAGE
from lit_iba.data.fields import SampleFields
from lit_iba.data.sources import Place
from lit_iba.data.stream import Failure, SampleMaker, report_holes
from lit_iba.data.tar_samples import RawSample
from lit_iba.data.workers import WORKER_TIMEOUT, WorkerWatch, stream_loader
from lit_iba.errors import InputError

# Whose iterables divide themselves among the loader's workers, and on demand among processes.
_DIVIDING = {"webdataset", "datasets"}


def has_places(dataset: object) -> bool:
    """Whether a data set gives any of its samples by number, which is what an order that can be
    resumed needs.
    """
    return (
        hasattr(dataset, "__getitem__")
        and hasattr(dataset, "__len__")
        and not isinstance(dataset, IterableDataset | DataLoader)
    )


@dataclass(frozen=True)
class MapSource:
    """Samples of a data set with a length; each counts as a shard of its own, so that all of them
    are shuffled.
    """

    dataset: Any
    fields: SampleFields

    def counts(self) -> torch.Tensor:
        """One for each sample, int64 (N,)."""
        return torch.ones(len(self.dataset), dtype=torch.int64)

    def contents(self) -> dict[str, list[Any]]:
        """Nothing: to know more than how many there are, all would have to be read."""
        return {}

    def open(self, number: int) -> MapReader:
        """Start reading a sample."""
        return MapReader(self, number)

    def listing(self) -> list[tuple[str, list[Place]]]:
        """Every sample, all in one group, by its number."""
        places = [Place(number, 0, f"{number:08d}") for number in range(len(self.dataset))]
        return [(type(self.dataset).__name__, places)]


@dataclass(frozen=True)
class MapReader:
    """Reads one sample of a data set."""

    source: MapSource
    number: int

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | Hole]:
        """The sample, or a hole if it cannot be decoded."""
        for _ in slots:
            try:
                given = self.source.dataset[self.number]
            except InputError:
                raise
            except DAMAGE as error:
                yield Hole(f"{self.number:08d}", f"sample {self.number} of the data set: {error}")
            else:
                yield self.source.fields.sample(given, self.number)

    def close(self) -> None:
        """Nothing stays open."""


class PipelineStream(IterableDataset[Any]):
    """Yields (batch, holes) of a pipeline, in its own order; each worker its own part.

    Args:
        pipeline: What gives samples.
        fields: Where their parts stand.
        make: Decodes and stacks.
        batch_size: Samples in each batch; the last ones of a worker are padded.
        rank: Number of this process, and ``world`` how many there are; workers cannot ask for it.
        world: See ``rank``.
    """

    def __init__(
        self,
        pipeline: Iterable[Any],
        fields: SampleFields,
        make: SampleMaker,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.pipeline, self.fields, self.make = pipeline, fields, make
        self.batch_size, self.rank, self.world = batch_size, rank, world
        # Shared, so that workers which live longer than an epoch see which one it is.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def begin(self, epoch: int) -> None:
        """Which epoch the next iteration is, for augmentation."""
        self._epoch.fill_(epoch)

    def padding(self) -> Batch:
        """A batch without samples, for a process whose part has ended before another's."""
        return self.make([None] * self.batch_size, 0)[0]

    def __iter__(self) -> Iterator[tuple[Batch, list[Hole]] | Failure]:
        worker = get_worker_info()
        if worker is not None:  # where webdataset looks for them; the process group is not here
            os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.world))
        part = f"{self.rank}_{worker.id if worker else 0}_"
        epoch = int(self._epoch)
        try:
            samples = (
                self.fields.sample(given, f"{part}{number:08d}")
                for number, given in enumerate(self.pipeline)
            )
            while slots := list(islice(samples, self.batch_size)):
                yield self.make([*slots, *[None] * (self.batch_size - len(slots))], epoch)
        except InputError as error:
            yield Failure(str(error))
        except ValueError as error:  # what webdataset says, such as of too few shards
            yield Failure(f"the pipeline ended with: {error}")


class PipelineLoader:
    """Batches of a pipeline, each sample that it gives once; how many there are is seen at the end.

    Args:
        stream: What to load.
        num_workers: Worker processes.
        multiprocessing_context: As of :class:`SampleLoader`.
        max_corrupt_fraction: Fraction of the samples so far, or of 1,000 if they are fewer, that
            may be undecodable.
        worker_timeout: As of :class:`SampleLoader`.
        any_left: Whether any process has a batch left, for one that has, or has not; called as
            often on each of them, so that all of them take equally many steps.
    """

    def __init__(
        self,
        stream: PipelineStream,
        num_workers: int = 0,
        multiprocessing_context: str | None = None,
        max_corrupt_fraction: float = 0.0,
        worker_timeout: float = WORKER_TIMEOUT,
        any_left: Callable[[bool], bool] | None = None,
    ) -> None:
        self.stream, self.max_corrupt_fraction = stream, max_corrupt_fraction
        self._any_left, self._epoch = any_left, 0
        self._start = partial(stream_loader, stream, num_workers, multiprocessing_context)
        self._loader = self._start()
        self._watch = WorkerWatch(worker_timeout)

    def close(self) -> None:
        """End the workers; another iteration starts others."""
        self._watch.end()
        self._loader = self._start()

    def __iter__(self) -> Iterator[Batch]:
        self.stream.begin(self._epoch)
        self._epoch += 1
        holes: list[Hole] = []
        seen = 0
        for item in self._together(self._watch.batches(self._loader)):
            if isinstance(item, Failure):
                raise InputError(item.message)
            batch, lost = item
            holes += lost
            seen += int(batch["weight"].sum()) + len(lost)
            if len(holes) > self.max_corrupt_fraction * max(seen, 1000):
                raise InputError(
                    f"{len(holes)} of {seen} samples could not be decoded so far"
                    f" ({holes[0].key}; {holes[0].reason}), more than"
                    f" max_corrupt_fraction={self.max_corrupt_fraction} allows; mend them or raise"
                    " it"
                )
            yield batch
        if not seen:
            raise InputError("the pipeline gives no samples; check where it reads them from")
        if holes:
            report_holes(holes, seen, "the pipeline")

    def _together(self, items: Iterator[Any]) -> Iterator[Any]:
        """What there is, and padding for as long as other processes have something."""
        for item in items:
            if self._any_left is not None:
                self._any_left(True)
            yield item
        while self._any_left is not None and self._any_left(False):
            yield self.stream.padding(), []


def divides_itself(pipeline: object) -> bool:
    """Whether a pipeline gives each worker of a loader a part of its own."""
    return any(kind.__module__.partition(".")[0] in _DIVIDING for kind in type(pipeline).__mro__)


def has_own_workers(pipeline: object) -> bool:
    """Whether a pipeline is a loader: its workers cannot be started in another's."""
    stages = getattr(pipeline, "pipeline", [])  # of wds.WebLoader, the first one is torch's
    return isinstance(pipeline, DataLoader) or any(isinstance(s, DataLoader) for s in stages)


def part_of(pipeline: Any, rank: int, world: int) -> Any:
    """A process's part of a pipeline.

    Raises:
        InputError: It does not know how to divide itself.
    """
    if world == 1:
        return pipeline
    if not divides_itself(pipeline):
        raise InputError(
            f"a {type(pipeline).__name__} gives every process all of its samples; for several"
            " processes give a data set with a length, a wds.WebDataset with"
            " nodesplitter=wds.split_by_node, or Hugging Face's"
        )
    # Hugging Face's own note of a part; a part is not divided again.
    if type(pipeline).__module__.partition(".")[0] == "datasets" and not getattr(
        pipeline, "_distributed", None
    ):
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(pipeline, rank, world)
    return pipeline

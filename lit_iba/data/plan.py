"""The order of samples as arithmetic: a pure function of (seed, epoch), equal on every process.

The stream of an epoch is all shards, one after the other, in an order drawn from (seed, epoch). It is cut into equal
contiguous lanes, so many for each process; batches are taken from a process's lanes in turn, and with one worker a lane
every worker reads its own shards from front to back. Training also shuffles inside fixed blocks of a few batches, with
a seed that names the block: there is no buffer to restore, so a position in the epoch is one number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_iba.errors import InputError


def generator_for(*names: object) -> torch.Generator:
    """A generator that belongs to what is named, such as (seed, epoch, key)."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True, eq=False)
class SamplePlan:
    """Which samples each process reads, in which order.

    In training every process takes ``total // (batch_size * world)`` whole batches; the rest of the epoch, less than
    one batch a process, is left out (another rest each epoch). In evaluation every sample comes exactly once and the
    last batches are padded with empty slots, so that all processes take equally many steps, at least one.

    Args:
        counts: int64 (S,), number of samples in each shard.
        batch_size: Samples in each batch of one process.
        world: Number of processes.
        lanes: Contiguous parts of a process's stream from which batches are taken in turn. The order depends on it; the
            number of workers does not matter otherwise, but equal to ``lanes`` is fastest.
        seed: Together with the epoch, seeds the order in training.
        training: Whether to shuffle and to leave out the rest, or to keep the order and pad.
        block: Batches that are shuffled together; a resume reads at most one block again.

    Raises:
        InputError: A number is out of range, or training has less than one batch for each process.
    """

    counts: Tensor
    batch_size: int
    world: int = 1
    lanes: int = 1
    seed: int = 0
    training: bool = False
    block: int = 16

    def __post_init__(self) -> None:
        for name in ("batch_size", "world", "lanes", "block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.total == 0:
            raise InputError("there are no samples to plan; check the shards")
        if self.steps == 0:
            raise InputError(
                f"{self.total} samples are less than one batch of {self.batch_size} on each of {self.world} processes; "
                "choose a smaller batch_size"
            )

    @cached_property
    def total(self) -> int:
        """Number of samples in all shards."""
        return int(self.counts.sum())

    @cached_property
    def steps(self) -> int:
        """Batches that each process takes in an epoch."""
        together = self.batch_size * self.world
        return self.total // together if self.training else max(1, -(-self.total // together))

    def lane_steps(self, lane: int) -> int:
        """Batches in a lane; the first lanes have the extra ones, so that taking turns comes out even."""
        return self.steps // self.lanes + (lane < self.steps % self.lanes)

    def lane_start(self, rank: int, lane: int) -> int:
        """Where in the epoch's stream a lane begins, in samples."""
        before = lane * (self.steps // self.lanes) + min(lane, self.steps % self.lanes)
        return (rank * self.steps + before) * self.batch_size

    def samples(self, rank: int, first_step: int = 0) -> int:
        """Number of samples, without padding, that a process takes from a step to the end of an epoch."""
        if self.training:
            return (self.steps - first_step) * self.batch_size
        starts = torch.tensor([self.batch_start(rank, step) for step in range(first_step, self.steps)])
        return int((self.total - starts).clamp(0, self.batch_size).sum())

    def batch_start(self, rank: int, step: int) -> int:
        """Where in the epoch's stream a batch's part begins, before blocks are shuffled."""
        return self.lane_start(rank, step % self.lanes) + step // self.lanes * self.batch_size

    def block_of(self, step: int) -> tuple[int, int]:
        """The (lane, number of the block in it) that a step's batch belongs to."""
        return step % self.lanes, step // self.lanes // self.block

    def settings(self) -> dict[str, Any]:
        """What the order depends on, for checkpoints."""
        names = ("batch_size", "world", "lanes", "seed", "block")
        return {"total": self.total, **{name: getattr(self, name) for name in names}}


class EpochOrder:
    """The order of one epoch of a plan; nothing but arithmetic, no file is opened.

    Args:
        plan: The plan.
        epoch: Number of the epoch.
    """

    def __init__(self, plan: SamplePlan, epoch: int) -> None:
        self.plan = plan
        self.epoch = epoch
        shards = torch.arange(len(plan.counts))
        if plan.training:
            shards = torch.randperm(len(shards), generator=generator_for(plan.seed, epoch))
        self._shards = shards
        self._ends = plan.counts[shards].cumsum(0)
        self._block: tuple[tuple[int, int, int], Tensor] | None = None

    def positions(self, rank: int, step: int) -> Tensor:
        """Places of one batch's samples in the epoch's stream, int64 (batch_size,); from ``plan.total`` on, padding."""
        lane, number = self.plan.block_of(step)
        if self._block is None or self._block[0] != (rank, lane, number):
            self._block = ((rank, lane, number), self._block_positions(rank, lane, number))
        first = (step // self.plan.lanes - number * self.plan.block) * self.plan.batch_size
        return self._block[1][first : first + self.plan.batch_size]

    def _block_positions(self, rank: int, lane: int, number: int) -> Tensor:
        plan = self.plan
        begin = number * plan.block
        batches = min(plan.block, plan.lane_steps(lane) - begin)
        start = plan.lane_start(rank, lane) + begin * plan.batch_size
        positions = torch.arange(start, start + batches * plan.batch_size)
        if plan.training:
            order = generator_for(plan.seed, self.epoch, rank, lane, number)
            positions = positions[torch.randperm(len(positions), generator=order)]
        return positions

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Shard numbers and slots in them, int64 like ``positions``, of places in the stream; (-1, -1) for padding."""
        real = positions < self.plan.total
        place = torch.searchsorted(self._ends, positions.clamp(max=self.plan.total - 1), right=True)
        shards = self._shards[place]
        slots = positions - (self._ends[place] - self.plan.counts[shards])
        return torch.where(real, shards, -1), torch.where(real, slots, -1)

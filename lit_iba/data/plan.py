"""The order of samples as arithmetic: a pure function of (seed, epoch), equal on every process.

The stream of an epoch is all shards, one after the other, in an order drawn from (seed, epoch). It
is cut into equal contiguous lanes, so many for each process; batches are taken from a process's
lanes in turn, and with one worker a lane every worker reads its own shards from front to back.
Training also shuffles inside fixed blocks of a few batches, with a seed that names the block: there
is no buffer to restore, so a position in the epoch is one number.

A run that goes on with another number of processes, or another batch size, in the middle of an
epoch plans what is left of the epoch again: the samples not yet taken, in the epoch's order, are
the stream of the new plan (:func:`left_of_epoch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.randomness import generator_for

ARRANGEMENT = ("batch_size", "world", "lanes", "block")


@dataclass(frozen=True, eq=False)
class SamplePlan:
    """Which samples each process reads, in which order.

    Every sample comes exactly once per epoch, and all processes take equally many steps: the total
    over ``batch_size * world``, rounded up, at least one. What is missing to that is padding: empty
    slots of weight 0, less than one step's worth, shared evenly, at the end of each process's part
    of the stream.

    Args:
        counts: int64 (S,), number of samples in each shard.
        batch_size: Samples in each batch of one process.
        world: Number of processes.
        lanes: Contiguous parts of a process's stream from which batches are taken in turn. The
            order depends on it; the number of workers does not matter otherwise, but equal to
            ``lanes`` is fastest.
        seed: Together with the epoch, seeds the order in training.
        training: Whether to shuffle, or to keep the files' order.
        block: Batches that are shuffled together; a resume reads at most one block again.
        size: Number of samples in the stream, where that is only what is left of an epoch; None for
            all.

    Raises:
        InputError: A number is out of range, or there are no samples.

    Example:
        >>> import torch
        >>> from lit_iba.data import SamplePlan
        >>> plan = SamplePlan(torch.tensor([10, 7]), batch_size=4, world=2)
        >>> plan.total, plan.steps
        (17, 3)
    """

    counts: Tensor
    batch_size: int
    world: int = 1
    lanes: int = 1
    seed: int = 0
    training: bool = False
    block: int = 16
    size: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "world", "lanes", "block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.total == 0:
            raise InputError("there are no samples to plan; check the shards")

    @cached_property
    def total(self) -> int:
        """Number of samples in the stream."""
        return int(self.counts.sum()) if self.size is None else self.size

    @cached_property
    def steps(self) -> int:
        """Batches that each process takes in an epoch."""
        together = self.batch_size * self.world
        return max(1, -(-self.total // together))

    def lane_steps(self, lane: int) -> int:
        """Batches in a lane; the first lanes have the extra ones, so that taking turns comes out
        even.
        """
        return self.steps // self.lanes + (lane < self.steps % self.lanes)

    def share(self, rank: int) -> tuple[int, int]:
        """Where a process's part of the stream begins and ends, in samples; parts differ by one
        sample at most.
        """
        return rank * self.total // self.world, (rank + 1) * self.total // self.world

    def lane_start(self, rank: int, lane: int) -> int:
        """Where in the stream a lane begins, in samples."""
        before = lane * (self.steps // self.lanes) + min(lane, self.steps % self.lanes)
        return self.share(rank)[0] + before * self.batch_size

    def block_of(self, step: int) -> tuple[int, int]:
        """The (lane, number of the block in it) that a step's batch belongs to."""
        return step % self.lanes, step // self.lanes // self.block

    def settings(self) -> dict[str, Any]:
        """What the order depends on, for checkpoints; ``total`` is that of all shards."""
        return {"total": int(self.counts.sum()), "seed": self.seed, **self.arrangement()}

    def arrangement(self) -> dict[str, int]:
        """How the stream is shared out: what may differ between two parts of one epoch."""
        return {name: getattr(self, name) for name in ARRANGEMENT}


class EpochOrder:
    """The order of one epoch of a plan; nothing but arithmetic, no file is opened.

    Args:
        plan: The plan.
        epoch: Number of the epoch.
        left: Which places of the epoch's stream make up the plan's, int64 (plan.total,), ascending;
            None for all.
    """

    def __init__(self, plan: SamplePlan, epoch: int, left: Tensor | None = None) -> None:
        self.plan = plan
        self.epoch = epoch
        self.left = left
        shards = torch.arange(len(plan.counts))
        if plan.training:
            shards = torch.randperm(len(shards), generator=generator_for(plan.seed, epoch))
        self._shards = shards
        self._ends = plan.counts[shards].cumsum(0)
        self._block: tuple[tuple[int, int, int], Tensor] | None = None

    def positions(self, rank: int, step: int) -> Tensor:
        """Places of one batch's samples in the epoch's stream, int64 (batch_size,); from
        ``plan.total`` on, padding.
        """
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
        positions[positions >= plan.share(rank)[1]] += (
            plan.total
        )  # padding, each slot with a place of its own
        if plan.training:
            order = generator_for(plan.seed, self.epoch, rank, lane, number)
            positions = positions[torch.randperm(len(positions), generator=order)]
        return positions

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Shard numbers and slots in them, int64 like ``positions``, of places in the stream; (-1,
        -1) for padding.
        """
        real = positions < self.plan.total
        positions = positions.clamp(max=self.plan.total - 1)
        if self.left is not None:
            positions = self.left[positions]
        place = torch.searchsorted(self._ends, positions, right=True)
        shards = self._shards[place]
        slots = positions - (self._ends[place] - self.plan.counts[shards])
        return torch.where(real, shards, -1), torch.where(real, slots, -1)

    def samples(self, rank: int, first_step: int = 0) -> int:
        """Number of samples, without padding, that a process takes from a step to the end of the
        epoch.
        """
        steps = range(first_step, self.plan.steps)
        return sum(int((self.positions(rank, step) < self.plan.total).sum()) for step in steps)

    def rest(self, batches: int) -> Tensor:
        """Places of the epoch's stream that are left when every process has taken so many batches,
        int64, ascending.
        """
        plan = self.plan
        left = torch.ones(plan.total, dtype=torch.bool)
        for rank in range(plan.world):
            for lane in range(plan.lanes):
                taken = batches // plan.lanes + (lane < batches % plan.lanes)
                whole, start = taken // plan.block, plan.lane_start(rank, lane)
                left[
                    start : min(start + whole * plan.block * plan.batch_size, plan.share(rank)[1])
                ] = False
                if part := taken % plan.block:
                    positions = self._block_positions(rank, lane, whole)[: part * plan.batch_size]
                    left[positions[positions < plan.total]] = False
        places = left.nonzero().flatten()
        return places if self.left is None else self.left[places]


def left_of_epoch(plan: SamplePlan, epoch: int, parts: Sequence[dict[str, int]]) -> Tensor | None:
    """What earlier runs have left of an epoch, as places in its stream; None if they took nothing.

    Args:
        plan: The data and the seed; its arrangement does not matter here.
        epoch: Number of the epoch.
        parts: How each of the runs shared out what it found, in turn: the names of ``ARRANGEMENT``,
            and ``"batches"``, how many of them every process took.
    """
    left = None
    for part in parts:
        arrangement: dict[str, Any] = {name: part[name] for name in ARRANGEMENT}
        found = replace(plan, **arrangement, size=None if left is None else len(left))
        left = EpochOrder(found, epoch, left).rest(part["batches"])
    return left

"""Which process this is, of how many, on which device: of a Fabric, or of a Trainer."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import lightning as L
import torch
import torch.distributed as dist

T = TypeVar("T")


class Processes(Protocol):
    """What work that is shared out over processes has to know; a launched Fabric knows it."""

    @property
    def device(self) -> torch.device:
        """Of this process."""
        ...

    @property
    def global_rank(self) -> int:
        """Number of this process."""
        ...

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...


class TrainerProcesses:
    """The same of a Trainer.

    Args:
        trainer: It has been launched.

    Example:
        >>> from lightning import Trainer
        >>> from lit_iba.evaluation.processes import TrainerProcesses
        >>> processes = TrainerProcesses(Trainer(logger=False, accelerator="cpu"))
        >>> processes.global_rank, processes.world_size, processes.device.type
        (0, 1, 'cpu')
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._strategy = trainer.strategy
        self.global_rank, self.world_size = trainer.global_rank, trainer.world_size

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self._strategy.root_device

    def barrier(self) -> None:
        """Wait for all processes."""
        self._strategy.barrier()


def gathered(value: T, world_size: int) -> list[T]:
    """The values of all processes, on every one of them, in the order of their numbers."""
    if world_size == 1:
        return [value]
    found: list[Any] = [None] * world_size
    dist.all_gather_object(found, value)
    return found

"""The device, or the processes and their devices, that a command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lit_iba.checks import check_counts
from lit_iba.errors import InputError

if TYPE_CHECKING:
    from lightning import Fabric


def device_named(name: str) -> str:
    """A device's name; ``"auto"`` means the GPU where there is one.

    Raises:
        InputError: There is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"device is {name!r}, which this machine does not have ({reason}); give auto, cpu or"
            " cuda"
        ) from error


def fabric_on(accelerator: str, devices: int = 1, num_nodes: int = 1) -> Fabric:
    """Fabric over processes of this run, not yet launched.

    Args:
        accelerator: As in ``lightning.Trainer``.
        devices: Processes a machine.
        num_nodes: Machines.

    Raises:
        InputError: There is no such accelerator here, or not so many of it.
    """
    from lightning import Fabric

    check_counts(devices=devices, num_nodes=num_nodes)
    strategy = "ddp" if devices * num_nodes > 1 else "auto"
    try:
        return Fabric(
            accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy
        )
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"accelerator {accelerator!r} with {devices} devices is not to be had here ({reason});"
            " give auto, cpu or cuda"
        ) from error

"""A callback that writes down which samples a training sees, and takes its time over them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L


class Watch(L.Callback):
    """Writes the step, the epoch and the keys of every training batch to a file of the process in
    the folder ``KILL_WATCH``, and then waits ``KILL_STEP_SECONDS``.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the batch is trained on: a killed step is written again by who goes on."""
        weights = batch["weight"].tolist()
        keys = [key for key, weight in zip(batch["key"], weights, strict=True) if weight]
        path = Path(os.environ["KILL_WATCH"]) / f"{os.getpid()}.txt"
        with path.open("a") as file:
            file.write(" ".join([str(trainer.global_step), str(trainer.current_epoch), *keys]))
            file.write("\n")
        time.sleep(float(os.environ.get("KILL_STEP_SECONDS", "0")))


class Stop(L.Callback):
    """Sends the process SIGUSR1 before the batch of step ``STOP_AT``."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """As a cluster's manager does."""
        if os.environ.get("STOP_AT") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGUSR1)

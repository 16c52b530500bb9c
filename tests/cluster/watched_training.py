"""The module that the fault tests train: ReadoutTraining that writes down what it sees and can be
made to fail.
"""

import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_iba.iba.readout_training import ReadoutTraining


class WatchedReadoutTraining(ReadoutTraining):
    """Takes ``STEP_SECONDS`` a step and ``VALIDATION_SECONDS`` a validation batch, writes every
    batch's keys to the folder ``WATCH``, ``validating`` too, and has a NaN at ``NAN_AT``.
    """

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        loss = super().training_step(batch, batch_index)
        keys = [
            key
            for key, weight in zip(batch["key"], batch["weight"].tolist(), strict=True)
            if weight
        ]
        if "WATCH" in os.environ:
            folder = Path(os.environ["WATCH"])
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{os.getpid()}.txt").open("a") as file:
                file.write(" ".join([str(self.global_step), str(self.current_epoch), *keys]) + "\n")
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        return loss * float("nan") if os.environ.get("NAN_AT") == str(self.global_step) else loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        super().validation_step(batch, batch_index)
        if "WATCH" in os.environ and self.global_step:
            with (Path(os.environ["WATCH"]) / "validating").open("a") as file:
                file.write(f"{self.global_step}\n")
        time.sleep(float(os.environ.get("VALIDATION_SECONDS", "0")))

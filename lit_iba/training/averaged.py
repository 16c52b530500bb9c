"""Training of a network that reads a frozen classifier: its learning rate over the run, and the
average of its weights.

Short trainings end well where the learning rate falls to zero and the weights that count are an
exponential moving average of the last ones.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lit_iba.errors import InputError
from lit_iba.training.frozen import TrainingWithFrozenClassifier

AVERAGE = "average.module."  # where a checkpoint has the averaged network, if its training averaged


class AveragedTraining(TrainingWithFrozenClassifier):
    """Base of trainings with a schedule and an average; :meth:`train_network` says what is trained.

    Attributes:
        average: The exponential moving average of what is trained, batch norms' statistics
            included; None without.
    """

    average: AveragedModel | None

    def train_network(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable,
        warmup_steps: int,
        schedule: Literal["constant", "cosine"],
        ema_decay: float | None,
    ) -> nn.Module:
        """Take a network to train, and return the one that is validated and explains: its average,
        or itself.

        Args:
            network: An attribute of this module.
            optimizer: Called with the network's parameters.
            warmup_steps: Over which the learning rate rises to its value.
            schedule: The learning rate afterwards: ``"constant"``, or ``"cosine"``, down to 0.
            ema_decay: Of the average; None for none.

        Raises:
            InputError: A number out of range.
        """
        if warmup_steps < 0 or not (ema_decay is None or 0 <= ema_decay < 1):
            raise InputError(
                f"warmup_steps is {warmup_steps} and ema_decay {ema_decay}; the first must be at"
                " least 0, the second null or in [0, 1)"
            )
        self._network, self.optimizer = (network,), optimizer  # a tuple: registered once already
        self.warmup_steps, self.schedule, self.average = warmup_steps, schedule, None
        if ema_decay is None:
            return network
        # Of the batch norms' statistics too: they belong to the weights that they were measured
        # with.
        averaging = get_ema_multi_avg_fn(ema_decay)
        self.average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
        self.average.requires_grad_(False)
        return self.average.module

    def without_empty_slots(self, batch: dict[str, Any]) -> Tensor:
        """The images of a batch, with one of them in the place of each that has weight 0: as they
        are, those would enter batch norms' statistics.
        """
        weight, images = batch["weight"], self.images_of(batch)
        slots = torch.arange(len(weight), device=weight.device)
        return images[torch.where(weight > 0, slots, (weight > 0).int().argmax())]

    def configure_optimizers(self) -> Any:
        """The optimiser over the trained network alone, and the schedule of its learning rate, if
        there is one.
        """
        optimizer = self.optimizer(self._network[0].parameters())
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        steps = math.inf if self.schedule == "constant" else self.steps_of_the_run
        schedule = LambdaLR(
            optimizer, lambda step: learning_rate_share(step, self.warmup_steps, steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def steps_of_the_run(self) -> float:
        """How many steps the optimiser makes in all.

        Raises:
            InputError: The run has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise InputError(
                "schedule cosine needs to know where the run ends; set trainer.max_epochs or"
                " max_steps"
            )
        return steps

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and the average moves after it; here, because checkpoints are written when the
        batch ends.
        """
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self._network[0])


def learning_rate_share(step: int, warmup_steps: int, steps: float) -> float:
    """The learning rate of a step, counted from 0, as a share of the optimiser's: a linear rise,
    then half a cosine to 0.

    Args:
        step: Steps taken before.
        warmup_steps: Length of the rise.
        steps: Of the whole run; infinite for a rate that stays. A run that goes on longer has the
            rate 0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = 0.0 if math.isinf(steps) else (step - warmup_steps) / max(steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

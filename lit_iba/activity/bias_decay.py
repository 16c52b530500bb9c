"""Scaling a network's biases down to zero while it is trained.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", section C: biases
are rescaled every 200 training steps, 200 times, exponentially (figure 6a, VGG-16) or linearly
(figure 6b, ResNet-50); training goes on at zero.
"""

from __future__ import annotations

from typing import Any, Literal

import lightning as L

from lit_iba.checks import check_literals
from lit_iba.errors import InputError


class BiasDecay(L.Callback):
    """Sets the biases of a ``ZeroBiasTraining`` to a share of their originals that falls to exactly
    zero.

    The share follows from the number of training steps alone, so that a run resumes anywhere in the
    decay.

    Args:
        decay_steps: How many times the biases are scaled down, T; the last time to zero.
        every_n_steps: Training steps at each value.
        shape: ``"linear"``: 1 - k/T after k decay steps; ``"exponential"``: ``end`` to the power of
            k/T, and zero at k = T.
        end: What the exponential shape would come to at T, in (0, 1). The paper is silent.

    Raises:
        InputError: A setting out of range, another training module, or a checkpoint of another
            schedule.

    Example:
        >>> from lit_iba.activity import BiasDecay
        >>> decay = BiasDecay(decay_steps=4, every_n_steps=10)
        >>> [decay.share(step) for step in (0, 10, 20, 40)]
        [0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        decay_steps: int = 200,
        every_n_steps: int = 200,
        shape: Literal["linear", "exponential"] = "linear",
        end: float = 1e-3,
    ) -> None:
        if decay_steps < 1 or every_n_steps < 1:
            raise InputError(
                f"decay_steps is {decay_steps} and every_n_steps is {every_n_steps}; both must be"
                " at least 1"
            )
        check_literals(BiasDecay.__init__, locals())
        if not 0 < end < 1:
            raise InputError(f"the decay's end is {end}; it must lie between 0 and 1")
        self.decay_steps, self.every_n_steps, self.shape, self.end = (
            decay_steps,
            every_n_steps,
            shape,
            end,
        )
        self._share: float | None = None

    def share(self, training_steps: int) -> float:
        """What is left of the biases in the training step that follows so many others."""
        k = training_steps // self.every_n_steps + 1
        if k >= self.decay_steps:
            return 0.0
        return (
            1 - k / self.decay_steps
            if self.shape == "linear"
            else float(self.end ** (k / self.decay_steps))
        )

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a module without biases to decay."""
        if not hasattr(pl_module, "set_bias_share"):
            raise InputError(
                f"BiasDecay works with ZeroBiasTraining, not with {type(pl_module).__name__}; leave"
                " it out"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the biases where their share has changed, or training has just begun."""
        share = self.share(trainer.global_step)
        if share != self._share:
            pl_module.set_bias_share(share)
            self._share = share
        pl_module.log("train/bias_share", share, batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A further fit sets the biases again."""
        self._share = None

    def state_dict(self) -> dict[str, Any]:
        """The schedule; the place in it is the trainer's step."""
        return {
            "decay_steps": self.decay_steps,
            "every_n_steps": self.every_n_steps,
            "shape": self.shape,
            "end": self.end,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another schedule."""
        if state_dict != self.state_dict():
            raise InputError(
                f"the checkpoint was made with the bias decay {state_dict}, not"
                f" {self.state_dict()}; resume with the same"
            )

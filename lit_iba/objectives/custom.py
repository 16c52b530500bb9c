"""An objective of the user's own, of two functions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.objectives.base import Objective, as_tensor, one_per_image

Function = Callable[[Tensor, Tensor], Tensor]
ROUNDING = 1e-4  # nats below 0 that float32 may leave of a loss of 0


class Custom(Objective):
    """Any loss: functions of outputs and targets that give each image one number.

    Targets are whatever the functions take, (B, ...). Where none are given they are
    ``predicted``'s, and without that zeros (B,), for functions that need none.

    Args:
        loss: From outputs (B, ...) and targets to nats of at least 0, (B,), or the name of such a
            function as ``"package.module:function"``.
        score: From the same to what gradients are of, (B,), likewise; by default minus the loss.
        predicted: From outputs to targets, likewise.

    Raises:
        InputError: A function cannot be imported, or does not give one number per image.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Custom
        >>> objective = Custom(loss=lambda outputs, targets: (outputs.mean(dim=1) - 1).square())
        >>> outputs = torch.tensor([[1.0, 3.0]])
        >>> objective.score(outputs, objective.predicted(outputs))
        tensor([-1.])
    """

    name: ClassVar[str] = "custom"

    def __init__(
        self,
        loss: Function | str,
        score: Function | str | None = None,
        predicted: Callable[[Tensor], Tensor] | str | None = None,
    ) -> None:
        self._loss = _function(loss, "loss")
        self._score = None if score is None else _function(score, "score")
        self._predicted = None if predicted is None else _function(predicted, "predicted")

    @property
    def settings(self) -> dict[str, Any]:
        """The functions' names."""
        given = {"loss": self._loss, "score": self._score, "predicted": self._predicted}
        return {name: _name_of(f) for name, f in given.items() if f is not None}

    @property
    def code(self) -> list[Any]:
        """The functions."""
        return [f for f in (self._loss, self._score, self._predicted) if f is not None]

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """0, of any outputs."""
        return 0

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Any tensor, (count, ...)."""
        return one_per_image(as_tensor(target, "a tensor"), count, "or one for all")

    def predicted(self, outputs: Tensor) -> Tensor:
        """What the function gives, or zeros."""
        if self._predicted is None:
            return torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        found = self._predicted(outputs.detach())
        if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(outputs):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"predicted of the custom objective gives {what} for {len(outputs)} images, where "
                "a target for each (B, ...) is needed"
            )
        return found

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the function gives, or minus the loss."""
        if self._score is None:
            return -self.loss(outputs, targets)
        return _checked(self._score(outputs, targets), outputs, "score")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the function gives."""
        return _checked(self._loss(outputs, targets), outputs, "loss")

    def probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """exp(-loss).

        Raises:
            InputError: A loss is below 0.
        """
        return (-self._not_below_zero(outputs.float(), targets)).exp()

    def decision(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether exp(-loss) is 1/2 or more; errors as of :meth:`probability`."""
        return (self._not_below_zero(outputs, targets) <= math.log(2)).long()

    def _not_below_zero(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, refused where exp(-loss) would be no probability. Asked of metrics alone: the
        answer makes the host wait, and an optimisation does not mind a constant.
        """
        loss = self.loss(outputs, targets)
        if bool((loss < -ROUNDING).any()):
            raise InputError(
                f"loss of the custom objective gives {float(loss.min()):.3g} for an image, and"
                " exp(-loss) is taken for a probability; subtract the least that the loss can be,"
                " so that it is 0 or more"
            )
        return loss

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The loss of the outputs against what the reference predicts."""
        if self._predicted is None:
            raise InputError(
                "comparing the outputs for two images needs to know what the first one says; give "
                "the custom objective a predicted function, from outputs to targets"
            )
        return super().divergence(outputs, reference)


def _function(given: Any, what: str) -> Callable[..., Any]:
    if isinstance(given, str):
        module, _, name = given.partition(":")
        try:
            given = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"{what} {given!r} of the custom objective cannot be imported ({error}); give "
                "package.module:function"
            ) from error
    if not callable(given):
        raise InputError(f"{what} of the custom objective is {given!r}; it must be a function")
    return given


def _name_of(function: Callable[..., Any]) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def _checked(found: Any, outputs: Tensor, what: str) -> Tensor:
    count = len(outputs)
    if not isinstance(found, Tensor) or found.shape != (count,):
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{what} of the custom objective gives {given} for {count} images, where one number "
            "per image (B,) is needed; take no mean over the batch (reduction='none')"
        )
    if torch.is_grad_enabled() and outputs.requires_grad and not found.requires_grad:
        raise InputError(
            f"{what} of the custom objective gives numbers without a gradient (it detaches, decides"
            " or counts); leave that out, or use a method that needs none, such as occlusion"
        )
    return found

"""Numbers: what of the image makes the network say *this* number, to a tolerance that the user
states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_numbers
from lit_iba.errors import InputError
from lit_iba.objectives.base import Objective, as_tensor, one_per_image
from lit_iba.objectives.classes import SEGMENTATION


class Regression(Objective):
    """A number: outputs (B,) or (B, D), of which one is explained.

    A loss in nats needs a unit. It is the tolerance t, in the output's own unit: the loss is
    (y - y0)^2 / (2 t^2), the surprise at y of somebody who expects a normal distribution around y0
    with the standard deviation t. So an error of one tolerance costs half a nat, and exp(-loss) is
    1 at y0 and 0.61 there. A band with hard edges would have no gradient inside and none outside.

    Targets are the numbers y0 to keep, float (B,); by default the network's own.

    Args:
        tolerance: By how much the number may be off before it matters, in the output's unit.
        index: Which of D outputs.

    Raises:
        InputError: The tolerance is not above 0.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Regression
        >>> age, outputs = Regression(tolerance=5.0), torch.tensor([[35.0]])
        >>> age.loss(outputs, torch.tensor([30.0]))
        tensor([0.5000])
        >>> age.score(outputs, torch.tensor([30.0]))
        tensor([35.])
    """

    name: ClassVar[str] = "regression"
    linear: ClassVar[bool] = True
    score_is: ClassVar[str] = "the output itself"
    probability_is: ClassVar[str] = (
        "exp(-(y - y0)^2 / (2 t^2)) of the output y, y0 being the target and t the tolerance"
    )
    divergence_is: ClassVar[str] = "(y - y(x))^2 / (2 t^2), t being the tolerance,"
    decision_is: ClassVar[str] = (
        "whether the output is within 1.18 tolerances of the target, where exp(-loss) is 1/2,"
    )

    def __init__(self, tolerance: float | None = None, index: int = 0) -> None:
        if tolerance is None:
            raise InputError(
                "regression needs a tolerance, in the unit of the output: by how much the number "
                "may be off before it matters; give {'name': 'regression', 'tolerance': ...}"
            )
        check_numbers(0, exclusive=True, tolerance=tolerance)
        check_counts(0, index=index)
        self.tolerance, self.index = float(tolerance), index

    @property
    def settings(self) -> dict[str, Any]:
        """Tolerance and index."""
        return {"tolerance": self.tolerance, "index": self.index}

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """0, of outputs (B,) or (B, D)."""
        if len(shape) not in (1, 2):
            raise InputError(
                f"{network} must map images to numbers (B,) or (B, D) for the objective "
                f"'regression', but gives {tuple(shape)}; give {SEGMENTATION}, or a custom "
                "objective"
            )
        numbers = shape[1] if len(shape) == 2 else 1
        if self.index >= numbers:
            raise InputError(
                f"index is {self.index}, but {network} has {numbers} outputs, counted from 0"
            )
        return 0

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Numbers, float32 (count,)."""
        what = "a number in the output's unit"
        given = as_tensor(target, what).to(torch.float32).flatten()
        if not torch.isfinite(given).all():
            raise InputError(f"target contains NaN or infinity; it must be {what}")
        return one_per_image(given, count, what)

    def of_labels(self, labels: Tensor) -> Tensor:
        """The labels as numbers."""
        return labels.float()

    def predicted(self, outputs: Tensor) -> Tensor:
        """What the network says."""
        return self.score(outputs.detach(), outputs).float().clone()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The output itself."""
        return outputs if outputs.ndim == 1 else outputs[:, self.index]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error, in tolerances."""
        off = (self.score(outputs, targets) - targets) / self.tolerance
        return 0.5 * off.square()

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The number."""
        return f"{float(target):.4g}"

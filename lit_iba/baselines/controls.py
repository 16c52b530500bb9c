"""Maps that look at nothing: what a metric gives them is what it gives for free.

Every table of a metric is read against these: a method that does not beat the best of them has
shown nothing there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lit_iba.explainer import Attribution, Explainer


class Constant(Explainer):
    """The same value everywhere; metrics that order pixels then order them by their own rule for
    ties.

    Example:
        >>> from lit_iba.baselines import Constant
        >>> Constant(classifier).attribute(images).values.unique().numel()
        1
    """

    name: ClassVar[str] = "constant"
    label: ClassVar[str] = "Constant"
    asks = False

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Ones, (B, H, W)."""
        return Attribution(torch.ones_like(images[:, 0]))


class Ramp(Explainer):
    """Growing from the top row to the bottom one: what is removed first is one contiguous piece.

    Example:
        >>> from lit_iba.baselines import Ramp
        >>> values = Ramp(classifier).attribute(images).values[0]
        >>> bool((values[1:] > values[:-1]).all())
        True
    """

    name: ClassVar[str] = "ramp"
    label: ClassVar[str] = "Ramp"
    asks = False

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Row number over height, in (0, 1]."""
        height = images.shape[-2]
        rows = torch.arange(1, height + 1, device=images.device, dtype=images.dtype) / height
        return Attribution(rows[:, None].expand_as(images[:, 0]).clone())


class Centre(Explainer):
    """Falling with the distance from the centre: photographers put objects there.

    Example:
        >>> from lit_iba.baselines import Centre
        >>> values = Centre(classifier).attribute(images).values[0]
        >>> bool(values[32, 32] > values[0, 0])
        True
    """

    name: ClassVar[str] = "centre"
    label: ClassVar[str] = "Centre"
    asks = False

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """1 at the centre, falling with the squared distance in units of the half sides, -1 in the
        corners.
        """
        y, x = (
            torch.linspace(-1, 1, side, device=images.device, dtype=images.dtype)
            if side > 1
            else images.new_zeros(1)
            for side in images.shape[-2:]
        )
        return Attribution((1 - y[:, None].square() - x.square()).expand_as(images[:, 0]).clone())

"""Steps of a canonical network (see canonical.py) that torch has no module for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Add(nn.Module):
    """Sum of two tensors of one shape."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Elementwise."""
        return first + second


class Concatenate(nn.Module):
    """Tensors one after the other, along their channels."""

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, C1, ...), (B, C2, ...) ... to (B, C1 + C2 + ..., ...)."""
        return torch.cat(parts, dim=1)


class GlobalMean(nn.Module):
    """Mean over all positions: (B, C, h, w) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Each channel's mean."""
        return x.mean(dim=(2, 3))


class SizedMean(nn.Module):
    """Average pooling whose windows, or whose number of positions, follow from the tensor's shape.

    Args:
        kind: The average pooling, ``nn.AvgPool2d`` or ``nn.AdaptiveAvgPool2d``.
        settings: From the tensor to the arguments of ``kind``.
    """

    def __init__(
        self, kind: Callable[..., nn.Module], settings: Callable[[Tensor], dict[str, Any]]
    ) -> None:
        super().__init__()
        self.kind, self.settings = kind, settings

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, h, w)."""
        pooled: Tensor = self.kind(**self.settings(x))(x)
        return pooled


class Ceiling(nn.Module):
    """What is above a limit becomes the limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x.clamp_max(self.limit)

    def is_open(self, x: Tensor) -> Tensor:
        """Where the output follows the input."""
        return x < self.limit


class Affine(nn.Module):
    """A multiple plus a constant, each a number or one per channel: what is left of a batch norm
    that follows no convolution.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)

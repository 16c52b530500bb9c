"""Where the positions and the channels of a feature map are, for convolutions and transformers
alike; how they are found is in :mod:`lit_iba.classifier.positions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("BCHW", "BHWC", "BTC", "BC")


@dataclass(frozen=True)
class Layout:
    """Where the positions and channels of a feature map R are.

    Args:
        kind: ``"BCHW"`` (convolutions), ``"BHWC"`` (Swin), ``"BTC"`` (tokens, as in ViT) or
            ``"BC"`` (no positions).
        height: Positions from top to bottom.
        width: Positions from left to right.
        prefix: Tokens before the grid that have no place in the picture, such as the class token.

    Example:
        >>> import torch
        >>> from lit_iba.classifier import Layout
        >>> layout = Layout("BTC", height=14, width=14, prefix=1)  # a class token and 196 patches
        >>> layout.grid(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def grid(self, values: Tensor) -> Tensor:
        """Any tensor with R's axes (..., as R) to (..., C, h, w), leaving out the prefix tokens."""
        if self.kind == "BCHW":
            return values
        if self.kind == "BHWC":
            return values.movedim(-1, -3)
        if self.kind == "BTC":
            return (
                values[..., self.prefix :, :]
                .unflatten(-2, (self.height, self.width))
                .movedim(-1, -3)
            )
        return values[..., None, None]

    def ungrid(self, grid: Tensor, prefix: Tensor | None = None) -> Tensor:
        """The inverse of :meth:`grid`; ``prefix`` (..., prefix tokens, C) is put back in front."""
        if self.kind == "BCHW":
            return grid
        if self.kind == "BHWC":
            return grid.movedim(-3, -1)
        if self.kind == "BTC":
            tokens = grid.movedim(-3, -1).flatten(-3, -2)
            return tokens if prefix is None else torch.cat([prefix, tokens], dim=-2)
        return grid[..., 0, 0]

    def prefix_of(self, values: Tensor) -> Tensor | None:
        """The part of a tensor with R's axes that :meth:`grid` leaves out: (..., prefix tokens, C),
        or None.
        """
        return values[..., : self.prefix, :] if self.kind == "BTC" and self.prefix else None

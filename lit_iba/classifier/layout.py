"""Where the positions and the channels of a feature map are, for convolutions and transformers
alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba.errors import InputError


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
        >>> layout = Layout.of(torch.Size([1, 197, 768]), image_size=(224, 224))
        >>> layout
        Layout(kind='BTC', height=14, width=14, prefix=1)
        >>> layout.grid(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    @classmethod
    def of(cls, shape: torch.Size, image_size: tuple[int, int]) -> Layout:
        """Find the layout of an R of this shape (batch included) that came from images of this (H,
        W).
        """
        aspect = math.log(image_size[0] / image_size[1])
        if len(shape) == 2:
            return cls("BC", 1, 1)
        if len(shape) == 3:
            for prefix in range(min(shape[1], 17)):
                height = round(math.sqrt((shape[1] - prefix) * image_size[0] / image_size[1]))
                if height and (shape[1] - prefix) % height == 0:
                    width = (shape[1] - prefix) // height
                    if abs(math.log(height / width) - aspect) < 0.2:
                        return cls("BTC", height, width, prefix)
        if len(shape) == 4:
            # Rows and columns shrink alike, so that their ratio is the image's; channels come first
            # where both fit.
            first = abs(math.log(shape[2] / shape[3]) - aspect)
            last = abs(math.log(shape[1] / shape[2]) - aspect)
            return (
                cls("BHWC", shape[1], shape[2])
                if last < first - 1e-9
                else cls("BCHW", shape[2], shape[3])
            )
        raise InputError(
            f"a feature map of shape {tuple(shape)} has no positions that can be laid over an image of size "
            f"{image_size}; choose a layer whose output is (B, C, h, w), (B, h, w, C) or (B, tokens, C)"
        )

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


def layouts_of(taps: dict[str, Tensor], image_size: tuple[int, int]) -> dict[str, Layout]:
    """Layout of every tap for images of this (H, W)."""
    return {name: Layout.of(tap.shape, image_size) for name, tap in taps.items()}

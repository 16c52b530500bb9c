"""Maps of layers at the size of the picture: saliency maps in [0, 1], and signed ones.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 9 and 10,
and the supplement's equation 10.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.activity.decomposition import Attributions
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError

Size = tuple[int, int]
Upsampling = Literal["bilinear", "nearest"]
_UPSAMPLING: dict[str, tuple[str, bool | None]] = {
    "bilinear": ("bilinear", False),
    "nearest": ("nearest-exact", None),
}


def unit_range(maps: Tensor, eps: float = 0.0) -> Tensor:
    """Each of (B, ...) to [0, 1] by its own minimum and maximum (equation 10); a constant becomes
    0.

    Args:
        maps: Non-negative values.
        eps: Added to the denominator, 1e-6 in FullGrad's published code.
    """
    flat = maps.flatten(1)
    low = flat.amin(dim=1).view(-1, *[1] * (maps.ndim - 1))
    width = flat.amax(dim=1).view_as(low) - low + eps
    return (maps - low) / torch.where(width > 0, width, torch.ones_like(width))


def saliency(maps: Tensor, size: Size, upsampling: str = "bilinear") -> Tensor:
    """Psi of equation 9 for one map per layer: |a|, rescaled to [0, 1], upsampled; (B, h, w) to (B,
    H, W).
    """
    return upsampled(unit_range(maps.abs()), size, upsampling)


def signed_map(
    maps: Tensor, size: Size, upsampling: str = "bilinear", keep_sum: bool = True
) -> Tensor:
    """Upsampling of an attribution map, plain (supplement, equation 10) or divided by the ratio of
    areas, so that its sum stays A (equation 14).
    """
    height, width = maps.shape[-2:]
    share = height * width / (size[0] * size[1]) if keep_sum else 1.0
    return upsampled(maps, size, upsampling) * share


def positions(found: Attributions, layer: str, classifier: FrozenClassifier) -> Tensor:
    """A layer's attribution map (B, h, w).

    Raises:
        InputError: The layer has no positions.
    """
    term = found.activity[layer]
    if term.layout is None:
        raise InputError(
            f"layer {layer!r} of {classifier.name} has no positions; choose one whose output is a"
            " feature map"
        )
    return term.map


def upsampled(maps: Tensor, size: Size, kind: str = "bilinear") -> Tensor:
    """Maps (B, h, w) at a size (H, W), (B, H, W)."""
    mode, align_corners = {**_UPSAMPLING, "aligned": ("bilinear", True)}[kind]
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=align_corners)[:, 0]

"""What the methods share that mask, blur or fill in the image: settings checked, Gaussian blur, the target's log odds."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_blur(images: Tensor, sigma: float, border: str) -> Tensor:
    """Gaussian blur truncated at 4 sigma.

    Args:
        images: (B, C, H, W).
        sigma: Standard deviation in pixels; 0 leaves the images as they are.
        border: What lies beyond the edge: ``"constant"`` (zeros), ``"reflect"`` or ``"replicate"``.
    """
    from kornia.filters import gaussian_blur2d

    if sigma == 0:
        return images
    # A picture can be reflected once only, so that the kernel must not be wider than twice the picture.
    height, width = (
        2 * min(math.ceil(4 * sigma), side - 1 if border == "reflect" else math.ceil(4 * sigma)) + 1
        for side in images.shape[-2:]
    )
    return gaussian_blur2d(images, (height, width), (sigma, sigma), border_type=border)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """log p_c - log (1 - p_c) of the target class: (B, K) and (B,) to (B,), without rounding where p_c is near 0 or 1."""
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return logits.gather(1, targets[:, None])[:, 0] - others.logsumexp(dim=1)

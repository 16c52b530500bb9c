"""What the methods share that mask, blur or fill in the image: settings checked, Gaussian blur, the target's log odds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lit_iba.errors import InputError


def check_choice(setting: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a setting that is none of the names allowed."""
    if value not in tuple(allowed):
        raise InputError(f"{setting} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def check_numbers(at_least: float, *, exclusive: bool = False, **settings: float) -> None:
    """Refuse settings that are not finite numbers of at least (``exclusive``: above) this."""
    for setting, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < at_least or (exclusive and value == at_least):
            raise InputError(
                f"{setting} is {value!r}; it must be a number {'above' if exclusive else '>='} {at_least:g}"
            )


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

"""Corrupted photographs at five severities, after ImageNet-C (Hendrycks and Dietterich, ICLR 2019),
with kornia.

VarSal's figure 7 looks at the uncertainty of brightened and motion-blurred images. Strengths are
ImageNet-C's, where lengths in pixels are for a picture of 224 and in proportion for others. Ours is
the kernel of the motion blur: uniform along the line, of the length whose spread is nearest to that
of ImageNet-C's one-sided Gaussian, whose (radius, sigma) are (10, 3), (15, 5), (15, 8), (15, 12)
and (20, 15). Results are not rounded to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.filters import motion_blur
from torch import Tensor

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError, unknown_name
from lit_iba.perturbation import gaussian_blur

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_SIDE = 224
STRENGTHS: dict[str, tuple[float, ...]] = {
    "brightness": (
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    ),  # added to the value of HSV
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor about each channel's mean
    "motion_blur": (7, 11, 13, 15, 19),  # length in pixels
    "gaussian_blur": (1, 2, 3, 4, 6),  # standard deviation in pixels
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of the values that become 0 or 1
}
MOTION_ANGLES = (-45.0, 45.0)  # degrees, drawn uniformly

Generators = Sequence[torch.Generator]


def corrupt(pixels: Tensor, kind: str, severity: int, generators: Generators) -> Tensor:
    """Pictures as a worse camera, or a worse day, would have given them.

    Args:
        pixels: float (B, C, H, W) in [0, 1].
        kind: A key of ``STRENGTHS``.
        severity: 1 to 5.
        generators: One for each image, on any device; only random kinds draw from them.

    Returns:
        The same shape, in [0, 1].

    Raises:
        InputError: A kind or a severity that does not exist, or another number of generators than
            images.
    """
    check_corruption(kind, severity)
    if len(generators) != len(pixels):
        raise InputError(
            f"{len(generators)} generators were given for {len(pixels)} images; give one per image"
        )
    return _KINDS[kind](pixels, STRENGTHS[kind][severity - 1], generators).clamp(0, 1)


def corrupt_images(
    images: Tensor, kind: str, severity: int, generators: Generators, preprocessing: Preprocessing
) -> Tensor:
    """:func:`corrupt` for normalised images (B, C, H, W)."""
    mean, std = (
        torch.tensor(c, device=images.device).view(-1, 1, 1)
        for c in (preprocessing.mean, preprocessing.std)
    )
    return (corrupt((images * std + mean).clamp(0, 1), kind, severity, generators) - mean) / std


def check_corruption(kind: str, severity: int) -> None:
    """Refuse a kind or a severity that does not exist."""
    if kind not in STRENGTHS:
        raise unknown_name("corruption", str(kind), STRENGTHS)
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise InputError(f"severity is {severity!r}; it must be a whole number from 1 to 5")


def _brightness(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    if pixels.shape[1] != 3:  # no colours: every channel is a value
        return pixels + strength
    hue, saturation, value = rgb_to_hsv(pixels).unbind(dim=1)
    return hsv_to_rgb(torch.stack([hue, saturation, (value + strength).clamp(0, 1)], dim=1))


def _contrast(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return (pixels - mean) * strength + mean


def _motion_blur(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    size = max(2 * math.floor(_scaled(strength, pixels) / 2) + 1, 3)
    low, high = MOTION_ANGLES
    drawn = [
        torch.rand((), generator=g, device=g.device, dtype=torch.float32).to(pixels)
        for g in generators
    ]
    angles = low + (high - low) * torch.stack(drawn)
    return motion_blur(
        pixels, size, angles, torch.zeros_like(angles), border_type="reflect", mode="bilinear"
    )


def _gaussian_blur(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    return gaussian_blur(pixels, _scaled(strength, pixels), "reflect")


def _gaussian_noise(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    noise = [
        torch.randn(pixels.shape[1:], generator=g, device=g.device, dtype=torch.float32)
        for g in generators
    ]
    return pixels + strength * torch.stack(noise).to(pixels)


def _impulse_noise(pixels: Tensor, strength: float, generators: Generators) -> Tensor:
    drawn = torch.stack(
        [
            torch.rand(pixels.shape[1:], generator=g, device=g.device, dtype=torch.float32)
            for g in generators
        ]
    ).to(pixels)
    return torch.where(drawn < strength, (drawn < strength / 2).to(pixels), pixels)


def _scaled(length: float, pixels: Tensor) -> float:
    return length * min(pixels.shape[-2:]) / REFERENCE_SIDE


_KINDS: dict[str, Callable[[Tensor, float, Generators], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "motion_blur": _motion_blur,
    "gaussian_blur": _gaussian_blur,
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
}

"""What VarSal's perturbation puts in place of the pixels that a mask drops (submission to ICLR
2021, section 3.1).

After Fong and Vedaldi (2017): the image blurred, Gaussian noise, or the image's mean colour with
Gaussian noise. The paper names no strengths; those here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba.errors import InputError, unknown_name
from lit_iba.perturbation import gaussian_blur

KINDS = ("blur", "noise", "mean")


@dataclass(frozen=True)
class BaselineStrengths:
    """How strongly the baselines hide the image.

    Args:
        blur: Standard deviation of the blur, in pixels of a picture whose shorter side is 224; in
            proportion for others (Fong and Vedaldi's 10).
        noise: Standard deviation of the noise baseline, of normalised images (1: as much as the
            data set's pixels vary).
        mean_noise: Standard deviation of the noise on the mean colour, likewise.

    Raises:
        InputError: A strength is negative.
    """

    blur: float = 10.0
    noise: float = 1.0
    mean_noise: float = 0.2

    def __post_init__(self) -> None:
        if not all(value >= 0 for value in (self.blur, self.noise, self.mean_noise)):
            raise InputError(f"{self} has a negative strength; standard deviations are 0 or more")


DEFAULT_STRENGTHS = BaselineStrengths()


def draw_baselines(
    images: Tensor,
    generators: Sequence[torch.Generator],
    kinds: Sequence[str] = KINDS,
    strengths: BaselineStrengths = DEFAULT_STRENGTHS,
) -> Tensor:
    """A baseline for each image, of a kind that is drawn with every call.

    Each image takes one whole number and one (3, H, W) field of normal numbers from its generator,
    whatever its kind and the other images are.

    Args:
        images: Normalised images (B, 3, H, W).
        generators: One for each image, on any device.
        kinds: What is drawn from: ``"blur"``, ``"noise"``, ``"mean"``; a kind named twice is drawn
            twice as often.
        strengths: See there.

    Returns:
        (B, 3, H, W), on the images' device and of their dtype.

    Raises:
        InputError: A kind that does not exist, none at all, or another number of generators than
            images.
    """
    if not kinds:
        raise InputError(f"kinds is empty; give one or more of {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("baseline of the perturbation", kind, KINDS)
    if len(generators) != len(images):
        raise InputError(
            f"{len(generators)} generators were given for {len(images)} images; give one per image"
        )
    number, noise = [], []
    for generator in generators:
        number.append(torch.randint(len(kinds), (), generator=generator, device=generator.device))
        noise.append(
            torch.randn(
                images.shape[1:], generator=generator, device=generator.device, dtype=torch.float32
            )
        )
    unit = torch.stack(noise).to(images)
    made = {
        "noise": lambda: strengths.noise * unit,
        "mean": lambda: images.mean(dim=(2, 3), keepdim=True) + strengths.mean_noise * unit,
        "blur": lambda: gaussian_blur(
            images, strengths.blur * min(images.shape[-2:]) / 224, "reflect"
        ),
    }
    drawn = torch.stack(number).to(images.device)[:, None, None, None]
    # All kinds are made and one is taken: which one is known on the device only, and asking would
    # make the host wait.
    chosen = torch.zeros_like(images)
    for position, kind in enumerate(kinds):
        chosen = torch.where(drawn == position, made[kind](), chosen)
    return chosen


def perturb(images: Tensor, mask: Tensor, baselines: Tensor) -> Tensor:
    """x m + x' (1 - m): images (B, 3, H, W) where the mask (B, H, W) is 1, baselines where it is
    0.
    """
    return torch.lerp(baselines, images, mask[:, None].to(images.dtype))

"""What is checked before anything is computed: settings, images and targets, each refused with one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lit_iba.errors import InputError


def check_counts(**settings: int) -> None:
    """Refuse settings that are not whole numbers of at least one."""
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{setting} is {value!r}; it must be a whole number of at least 1")


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


def check_images(images: Tensor) -> Tensor:
    """The images as a detached float tensor, or an error that says what is wrong with them."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        given = (
            f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise InputError(f"images must be a float tensor (B, 3, H, W), normalised (see classifier.images); got {given}")
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise InputError(f"image {bad} of the batch contains NaN or infinity; check how it was decoded and normalised")
    return images.detach()


def check_targets(target: Tensor | int | Sequence[int], count: int, num_classes: int) -> Tensor:
    """Targets as int64 (count,), or an error that names the class that is out of range."""
    targets = torch.as_tensor(target).detach().to(torch.int64).flatten()
    targets = targets.expand(count) if targets.numel() == 1 else targets
    if len(targets) != count:
        raise InputError(f"{len(targets)} targets were given for {count} images; give one target an image")
    outside = targets[(targets < 0) | (targets >= num_classes)]
    if len(outside):
        raise InputError(
            f"target class {int(outside[0])} is out of range; the classifier has classes 0..{num_classes - 1}"
        )
    return targets

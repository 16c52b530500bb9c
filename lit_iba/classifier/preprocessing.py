"""From a photograph to a classifier's input, and back to something that can be looked at.

Geometry (resize, crop) happens on 8-bit pictures in the data loader; normalisation happens on the
device. Two names are kept apart throughout the project: a *picture* is uint8 (C, H, W) as it is
stored, an *image* is the float tensor that the classifier takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lit_iba.checks import check_counts, check_literals, check_numbers, check_taken
from lit_iba.classifier.photograph import Photograph
from lit_iba.errors import InputError
from lit_iba.limits import check_limit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow has it (ITU-R BT.601)


@dataclass(frozen=True)
class Preprocessing:
    """How a classifier wants its input; the defaults are torchvision's usual evaluation transform
    for ImageNet.

    Args:
        resize: Length of the shorter side before cropping, in pixels; [height, width] stretches the
            picture to that size; None leaves the size as it is.
        crop: Side of the central square that is kept, in pixels, or [height, width] of a central
            rectangle.
        mean: Mean per channel, of pictures scaled to [0, 1]: three of a photograph, one of a grey
            picture, any number of what other instruments see.
        std: Standard deviation per channel, likewise.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with antialiasing.

    Example:
        >>> import torch
        >>> from lit_iba import Preprocessing
        >>> preprocessing = Preprocessing(resize=72, crop=64)
        >>> pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> preprocessing.normalize(pictures).shape
        torch.Size([2, 3, 64, 64])
        >>> Preprocessing(resize=None, crop=(24, 40)).size  # rows, columns
        (24, 40)
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        check_literals(self)
        for name, given in (("resize", self.resize), ("crop", self.crop)):
            if isinstance(given, list | tuple):
                if len(given) != 2:
                    raise InputError(
                        f"{name} is {given!r}; it must be a number of pixels, or [height, width]"
                    )
                # Equal crops are equal, however they were written.
                square = name == "crop" and given[0] == given[1]
                object.__setattr__(self, name, given[0] if square else tuple(given))
            for side in given if isinstance(given, list | tuple) else (given,):
                if side is not None:
                    check_counts(**{name: side})
                    check_limit("SIDE", side, name)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, Sequence) or len(values) != len(self.mean) or not values:
                raise InputError(
                    f"{name} is {values!r}; it must be one number a channel, as many as mean has"
                )
            for value in values:
                if name == "std":
                    check_numbers(0, exclusive=True, std=value)
                else:
                    check_numbers(-1e6, mean=value)

    @property
    def channels(self) -> int:
        """Number of channels of the classifier's images."""
        return len(self.mean)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the classifier's images, in pixels."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize: at least the crop, so that a crop never needs
        padding.
        """
        rows, columns = self.size
        if isinstance(self.resize, tuple):
            return max(self.resize[1], columns), max(self.resize[0], rows)
        shorter = min(width, height)
        wanted = shorter if self.resize is None else self.resize
        scale = max(wanted / shorter, rows / height, columns / width)
        return max(columns, wanted, int(width * scale)), max(rows, wanted, int(height * scale))

    def picture(self, photograph: Image.Image | Photograph) -> Tensor:
        """Resize and crop one photograph; returns uint8 (C, H, W), its channels innermost in
        memory.

        Raises:
            InputError: The photograph has other channels than the classifier takes.
        """
        if not isinstance(photograph, Photograph):
            photograph = Photograph.of(photograph, self.channels)
        return torch.from_numpy(self.pixels(photograph)).permute(2, 0, 1)

    def pixels(self, photograph: Photograph) -> np.ndarray:
        """The same as uint8 (H, W, C).

        Only the part that the crop keeps is resized, which halves the work; a value in two hundred
        differs by one, by rounding, from resizing everything first.
        """
        box = self.crop_box(*photograph.size)
        if self.scaled_size(*photograph.size) == photograph.size:
            return photograph.pixels(box)
        return photograph.resized(self.size, self.interpolation, box)

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a photograph of this size that becomes the picture: left, top, right and
        bottom, in its pixels.
        """
        scaled = self.scaled_size(width, height)
        left, top = self.crop_offset(scaled)
        across, down = width / scaled[0], height / scaled[1]
        rows, columns = self.size
        return left * across, top * down, (left + columns) * across, (top + rows) * down

    def crop_offset(self, scaled: tuple[int, int]) -> tuple[int, int]:
        """(left, top) of the crop in a resized photograph of this (width, height)."""
        rows, columns = self.size
        return round((scaled[0] - columns) / 2), round((scaled[1] - rows) / 2)

    def normalize(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 (B, C, H, W) to images float32 of the same shape, on the pictures'
        device. Photographs become grey for a classifier of one channel.

        Raises:
            InputError: The pictures have other channels than the classifier takes.
        """
        mean, std = self.constants(pictures.device)
        values = pictures.float()
        if (given := values.shape[1]) != self.channels:
            if (given, self.channels) != (3, 1):
                raise InputError(
                    f"the pictures have {given} channels, but the classifier takes "
                    f"{self.channels}; give its own images as tensors"
                )
            grey = torch.tensor(GREY, device=values.device, dtype=torch.float32).view(3, 1, 1)
            values = (values * grey).sum(dim=1, keepdim=True)
        return (values / 255 - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Images float (B, C, H, W) back to pictures uint8 of the same shape; out-of-range values
        are clipped.
        """
        mean, std = self.constants(images.device)
        return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, (C, 1, 1) each, of pictures scaled to [0, 1]."""
        return _colours(self.mean, device), _colours(self.std, device)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for checkpoints, exports and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: A setting is unknown or out of range.
        """
        if not isinstance(settings, dict):
            raise InputError(f"preprocessing is {settings!r}; it must be a mapping of settings")
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
        }
        check_taken(cls, known, "preprocessing")
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(
                f"preprocessing {settings} is not as expected ({error}); it takes resize, crop,"
                " mean, std and interpolation"
            ) from error


def drawn(pictures: Tensor) -> Tensor:
    """Pictures uint8 (B, C, H, W) as people can see them, (B, 3, H, W): one channel is grey, two
    are red and green, of more than three the first three are shown.
    """
    channels = pictures.shape[1]
    if channels == 1:
        return pictures.expand(-1, 3, -1, -1)
    if channels == 2:
        return torch.cat([pictures, torch.zeros_like(pictures[:, :1])], dim=1)
    return pictures[:, :3]


def fitting(usual: Preprocessing, model: nn.Module) -> Preprocessing:
    """The usual preprocessing, with the channels of the network's first convolution: where they are
    not three, and nothing else is stated, each has mean 0.5 and standard deviation 0.25.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    stated = (usual.mean, usual.std) != (IMAGENET_MEAN, IMAGENET_STD)
    if first is None or first.in_channels == usual.channels or stated:
        return usual
    if _runs(model, usual, next(first.parameters())):  # registered first, but run later
        return usual
    channels = first.in_channels
    return replace(usual, mean=(0.5,) * channels, std=(0.25,) * channels)


@torch.no_grad()
def _runs(model: nn.Module, preprocessing: Preprocessing, like: Tensor) -> bool:
    try:
        model(like.new_zeros(2, preprocessing.channels, *preprocessing.size))
    except Exception:  # whatever a network says of images that are not its own
        return False
    return True


def _colours(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number per channel, (C, 1, 1); filled in on the device, because sending them would make
    the host wait in every step.
    """
    return torch.stack(
        [torch.full((1, 1), float(value), device=device, dtype=torch.float32) for value in values]
    )

"""A network that finds bright squares in pictures of any number of channels that are wider than
high, and shards of such pictures.
"""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lit_iba.data import ShardIndex, write_shards

SIZE = (24, 40)  # rows, columns
STORED = (30, 44)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Finder(nn.Module):
    """The last class where the last channel has a bright square, whatever the others show."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.see = nn.Conv2d(channels, 4, 5, stride=2, padding=2)
        self.find = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)
        with torch.no_grad():
            for layer in (self.see, self.find, self.head):
                layer.weight.mul_(0.02)
                layer.bias.zero_()
            self.see.weight[0, -1] = 1 / 25
            self.see.bias[0] = -0.2
            self.find.weight[0, 0, 1, 1] = 1
            self.head.weight[-1, 0], self.head.bias[-1] = 8, -4

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, num_classes)."""
        found = self.find(self.see(images).relu()).relu()
        return self.head(found.amax(dim=(2, 3)))  # type: ignore[no-any-return]


def finder(channels: int = 3, num_classes: int = 2) -> nn.Module:
    """The same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Finder(channels, num_classes)


grey, two, four, twelve = (partial(finder, channels) for channels in (1, 2, 4, 12))
NAMES = {1: "grey", 2: "two", 3: "finder", 4: "four", 12: "twelve"}


def by_name(channels: int, **more: Any) -> dict[str, Any]:
    """The arguments of a classifier by name, as configs have them."""
    many = [0.5] * channels
    return {
        "model": f"picture_toys:{NAMES[channels]}",
        "weights": "random",
        "preprocessing": {
            "resize": None,
            "crop": list(SIZE),
            "mean": many,
            "std": [0.25] * channels,
        },
        **more,
    }


def picture(number: int, channels: int) -> tuple[np.ndarray, list[int] | None]:
    """uint8 (H, W, C) with noise, a square of 8 pixels in the last channel where the number is odd,
    and always one in the first, if that is another; and the box of the former.
    """
    draw = np.random.default_rng(number)
    pixels = draw.integers(60, 110, (*STORED, channels)).astype(np.uint8)
    top, left, other = (int(draw.integers(low, high)) for low, high in ((4, 16), (4, 12), (24, 30)))
    if number // 2 % 2:
        left, other = other, left
    if channels > 1:
        pixels[top : top + 8, other : other + 8, 0] = 230
    if number % 2 == 0:
        return pixels, None
    pixels[top : top + 8, left : left + 8, -1] = 230
    return pixels, [left, top, left + 8, top + 8]


def encoded(pixels: np.ndarray) -> tuple[str, bytes]:
    """The extension and bytes of a file: PNG where it can hold the channels, else an array."""
    buffer, channels = io.BytesIO(), pixels.shape[2]
    if channels not in MODES:
        np.save(buffer, pixels.transpose(2, 0, 1))
        return "npy", buffer.getvalue()
    Image.fromarray(pixels if channels > 1 else pixels[:, :, 0]).save(buffer, "PNG")
    return "png", buffer.getvalue()


def samples(count: int, channels: int) -> Iterator[dict[str, Any]]:
    """Samples number 0..count-1; the class says whether there is an object."""
    for number in range(count):
        pixels, box = picture(number, channels)
        extension, data = encoded(pixels)
        described = {"bbox": [box] if box else []}
        yield {"key": f"p{number:03d}", extension: data, "cls": number % 2, "json": described}


def make_pictures(folder: Path, channels: int, count: int = 12) -> ShardIndex:
    """Shards of pictures, half of them with an object."""
    return write_shards(samples(count, channels), folder, "p", count // 2, ["none", "square"])

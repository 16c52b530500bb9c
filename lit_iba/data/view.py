"""Which part of a photograph becomes the picture, and where its object lies in it.

Evaluation takes the classifier's own resize and central crop; training may take a random one.
Either way the photograph and its object mask go through the same geometry: a pixel belongs to the
object where its centre falls into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from lit_iba.classifier.photograph import Photograph
from lit_iba.classifier.preprocessing import Preprocessing

# The usual crop for training on ImageNet (Szegedy et al., "Going Deeper with Convolutions", CVPR
# 2015, section 6).
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)  # times that of the picture, which is 1 there


@dataclass(frozen=True)
class View:
    """A rectangle of the stored photograph, stretched over the picture.

    Args:
        left, top, width, height: The rectangle, in pixels of the stored photograph.
        size: (H, W) of the picture, in pixels.
        mirrored: Whether left and right are swapped.
    """

    left: float
    top: float
    width: float
    height: float
    size: tuple[int, int]
    mirrored: bool = False

    def pixels(
        self, photograph: Photograph, interpolation: Literal["bilinear", "bicubic"]
    ) -> np.ndarray:
        """Crop, resize and mirror a photograph; returns uint8 (H, W, C)."""
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        picture = photograph.resized(self.size, interpolation, box)
        return picture[:, ::-1] if self.mirrored else picture

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the picture's pixel centres lie in the stored photograph: x (W,) and y (H,)."""
        down, across = ((np.arange(side) + 0.5) / side for side in self.size)
        x = self.left + (1 - across if self.mirrored else across) * self.width
        return x, self.top + down * self.height


@lru_cache(maxsize=64)
def central_centres(
    preprocessing: Preprocessing, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixel centres of ``preprocessing.picture`` lie in a photograph of width x height: x
    (W,), y (H,).
    """
    scaled = preprocessing.scaled_size(width, height)
    left, top = preprocessing.crop_offset(scaled)
    down, across = (
        np.arange(side, dtype=np.float32) + np.float32(0.5) for side in preprocessing.size
    )
    x = (across + left) * np.float32(width / scaled[0])
    return x, (down + top) * np.float32(height / scaled[1])


def pixel_mask(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The values of a stored mask (H, W) under the points x (W',) and y (H',); (H', W')."""
    rows = np.floor(y).astype(np.int64).clip(0, mask.shape[0] - 1)
    columns = np.floor(x).astype(np.int64).clip(0, mask.shape[1] - 1)
    return mask[rows[:, None], columns[None, :]]


def box_mask(
    boxes: Sequence[Sequence[float]], x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Which of the points x (W',) and y (H',), in order along each axis, lie in any box (x0, y0,
    x1, y1); (H', W'), in ``out`` where that is given.
    """
    mask = np.empty((len(y), len(x)), dtype=bool) if out is None else out
    mask[:] = False
    for x0, y0, x1, y1 in boxes:
        mask[_between(y, y0, y1), _between(x, x0, x1)] = True
    return mask


def _between(points: np.ndarray, low: float, high: float) -> slice:
    """Where low <= points < high; one run, because the points rise or fall."""
    if points[0] <= points[-1]:
        return slice(*points.searchsorted((low, high)))
    # Falling points, from the other side: the first one below high, to the last one at or above
    # low.
    begin, end = points[::-1].searchsorted((low, high))
    return slice(len(points) - end, len(points) - begin)


def random_view(width: int, height: int, size: tuple[int, int], generator: torch.Generator) -> View:
    """A random rectangle of a photograph, 8 to 100 % of its area, its ratio of width to height 3:4
    to 4:3 of the picture's, mirrored or not.

    Args:
        width: Width of the photograph, in pixels.
        height: Its height.
        size: (H, W) of the picture.
        generator: Where the random numbers come from.
    """
    draws = torch.rand(10, 4, generator=generator, dtype=torch.float64)
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    least, most = (ratio * size[1] / size[0] for ratio in CROP_RATIO)
    low, high = math.log(least), math.log(most)
    for area, ratio, across, down in draws.tolist():
        pixels = width * height * (CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return View(left, top, w, h, size, mirrored)
    # Very long photographs: the largest central rectangle of an allowed ratio.
    aspect = min(max(width / height, least), most)
    w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return View((width - w) // 2, (height - h) // 2, w, h, size, mirrored)

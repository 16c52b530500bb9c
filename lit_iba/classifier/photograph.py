"""A picture at its stored size, with the channels that a classifier takes: what decoders give, and
what resizing and cropping begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from lit_iba.errors import InputError

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_KINDS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's names, by the number of channels


@dataclass(frozen=True)
class Photograph:
    """A picture of any number of 8-bit channels.

    Args:
        planes: One image in RGB, or one in grey for each channel: Pillow resizes no others without
            mixing their channels (of RGBA it multiplies the colours by the last one).
        stored: The pixels instead, uint8 (H, W, 3), as a decoder may give them.

    Example:
        >>> import numpy as np
        >>> from lit_iba.classifier.photograph import Photograph
        >>> bands = np.zeros((12, 24, 40), dtype=np.uint8)  # channels, rows, columns
        >>> photograph = Photograph.of(bands, channels=12)
        >>> photograph.size, photograph.resized((12, 20), "bilinear").shape
        ((40, 24), (12, 20, 12))
    """

    planes: tuple[Image.Image, ...] = ()
    stored: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        picture: Image.Image | np.ndarray | Photograph,
        channels: int,
        name: str = "the picture",
    ) -> Photograph:
        """A picture with the channels of a classifier.

        Args:
            picture: An image of any usual kind, or an array, uint8 (C, H, W) or (H, W, C), for one
                channel also (H, W). A photograph stays as it is.
            channels: That the classifier takes. One is grey and three are RGB, whatever the image
                is: transparent pixels are laid over white, 16-bit grey is scaled to 8 bits. Two are
                grey with alpha and four RGBA, as they are stored; only arrays have others.
            name: What to call the picture in an error.

        Raises:
            InputError: The picture has other channels.
        """
        if isinstance(picture, Photograph):
            return picture
        if isinstance(picture, np.ndarray):
            return cls(tuple(map(Image.fromarray, _bands(picture, channels, name))))
        if picture.mode == "F":  # whose values Pillow would cut to whole numbers, 0..1 to black
            raise InputError(
                f"{name} has numbers with a fraction for pixels (Pillow's mode F); scale them to"
                " 0..255 and give uint8"
            )
        if channels in (1, 3):
            return cls((_opaque(picture, "L" if channels == 1 else "RGB"),))
        if picture.mode != _KINDS.get(channels):
            stored = " or a .png with alpha" if channels in _KINDS else ""
            raise InputError(
                f"{name} has {len(picture.getbands())} channels ({picture.mode}), but the "
                f"classifier takes {channels}; give a .npy of uint8 ({channels}, H, W){stored}"
            )
        return cls(picture.split())

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        if self.stored is None:
            return self.planes[0].size
        return self.stored.shape[1], self.stored.shape[0]

    def turned(self, turn: Callable[[Image.Image], Image.Image]) -> Photograph:
        """Every plane changed by the same function, such as ``ImageOps.exif_transpose``."""
        return Photograph(tuple(map(turn, self._images())))

    def pixels(self, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """All pixels, or those of a box of whole ones (left, top, right, bottom); uint8 (H, W,
        C).
        """
        if self.stored is not None:
            left, top, right, bottom = map(round, box or (0, 0, *self.size))
            return self.stored[top:bottom, left:right]
        return _stacked(p if box is None else p.crop(box) for p in self.planes)

    def resized(
        self,
        size: tuple[int, int],
        interpolation: Literal["bilinear", "bicubic"],
        box: tuple[float, float, float, float] | None = None,
    ) -> np.ndarray:
        """All of it, or a box (left, top, right, bottom), at a size (H, W); uint8 (H, W, C)."""
        kernel = _FILTERS[interpolation]
        return _stacked(plane.resize(size[::-1], kernel, box=box) for plane in self._images())

    def _images(self) -> tuple[Image.Image, ...]:
        return self.planes if self.stored is None else (Image.fromarray(self.stored),)


def _stacked(planes: object) -> np.ndarray:
    arrays = [np.array(plane) for plane in planes]  # type: ignore[attr-defined]
    return arrays[0] if arrays[0].ndim == 3 else np.stack(arrays, axis=-1)


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """An image of any usual kind in 8-bit grey or RGB."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        values = np.asarray(image, dtype=np.int64)
        values = np.where(values == image.info.get("transparency", -1), 65535, values)
        image = Image.fromarray(((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _bands(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    """An array as (C, H, W)."""
    shape = array.shape
    if array.dtype == np.uint8 and 0 not in shape:
        if len(shape) == 2 and channels == 1:
            return array[None]
        first, last = (len(shape) == 3 and shape[axis] == channels for axis in (0, -1))
        if first and last:
            raise InputError(
                f"{name} is an array {shape} whose first and last axis could be the {channels} "
                "channels of the classifier; put them at the other end, or make it larger"
            )
        if first or last:
            return np.ascontiguousarray(array if first else array.transpose(2, 0, 1))
    raise InputError(
        f"{name} is an array {shape} of {array.dtype}, but the classifier takes {channels} "
        f"channels; give uint8 ({channels}, H, W) or (H, W, {channels}), scaled to 0..255"
    )

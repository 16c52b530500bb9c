"""Gallery pictures as data URIs, drawn by :class:`lit_iba.heatmap.Heatmap` so that a heatmap looks
the same everywhere.

A method's layer is a PNG with transparency over the picture in grey: at opacity s the browser shows
exactly what ``Heatmap.overlay(picture, strength=s)`` would draw, so the page can offer a slider.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_iba.drawing import Drawn, drawn_maps
from lit_iba.heatmap import Heatmap

PIXELATED_BELOW = 128  # pixels a side: smaller pictures show their pixels instead of a blur


def pixelated(height: int, width: int) -> bool:
    """Whether a picture is shown with visible pixels."""
    return max(height, width) < PIXELATED_BELOW


def _uri(picture: Image.Image, kind: str, **options: int | bool | bytes) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return _data_uri(buffer.getvalue(), kind.lower())


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(content: bytes) -> str:
    """The content of a PNG file as a data URI."""
    return _data_uri(content, "png")


def photograph_uri(picture: Tensor) -> str:
    """A uint8 (3, H, W) picture as a JPEG data URI."""
    return _uri(Image.fromarray(picture.permute(1, 2, 0).numpy()), "JPEG", quality=90)


def picture_uri(picture: Tensor) -> str:
    """A uint8 (3, H, W) picture as a PNG data URI, exact."""
    return _uri(Image.fromarray(picture.permute(1, 2, 0).numpy()), "PNG", optimize=True)


def backdrop_uri(picture: Tensor) -> str:
    """The grey picture on which ``Heatmap.overlay`` draws, that is, its overlay with strength
    zero.
    """
    grey = Heatmap(torch.zeros(1, *picture.shape[-2:])).overlay(picture[None], strength=0.0)[0]
    return _uri(Image.fromarray(grey[0].numpy()), "JPEG", quality=90)


def drawn_map(values: Tensor, signed: bool) -> Drawn:
    """One heatmap (H, W) as it is drawn."""
    return drawn_maps(values[None], signed)


def layer_uri(shown: Drawn) -> str:
    """One heatmap as a transparent PNG of at most 256 colours."""
    alpha = (shown.scaled[0].abs() ** 0.7).numpy()  # the exponent of Heatmap.overlay
    colors = shown.colored()[0].permute(1, 2, 0).reshape(-1, 3).numpy()
    codes = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    _, first, index = np.unique(codes, return_index=True, return_inverse=True)
    palette, index = colors[first], index.reshape(-1)
    # The colour map has at most 256 steps, so a colour fixes its opacity up to half a step.
    opacity = np.bincount(index, alpha.reshape(-1)) / np.bincount(index)
    height, width = alpha.shape
    picture = Image.frombytes("P", (width, height), index.astype(np.uint8).tobytes())
    picture.putpalette(palette.tobytes())
    return _uri(
        picture, "PNG", optimize=True, transparency=bytes((opacity * 255).round().astype(np.uint8))
    )


def outline(mask: Tensor) -> str:
    """The border of a bool mask (H, W) as SVG path data in pixel units; an empty string for an
    empty mask.
    """
    padded = np.pad(mask.numpy().astype(np.int8), 1)
    parts = []
    horizontal = np.abs(np.diff(padded, axis=0))[:, 1:-1]  # (H+1, W): an edge above row i
    for y, line in enumerate(horizontal):
        parts += [f"M{start} {y}H{stop}" for start, stop in _runs(line)]
    vertical = np.abs(np.diff(padded, axis=1))[1:-1].T  # (W+1, H): an edge left of column i
    for x, line in enumerate(vertical):
        parts += [f"M{x} {start}V{stop}" for start, stop in _runs(line)]
    return "".join(parts)


def _runs(line: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each run of ones."""
    change = np.diff(np.concatenate(([0], line, [0])))
    return list(
        zip(
            np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True
        )
    )

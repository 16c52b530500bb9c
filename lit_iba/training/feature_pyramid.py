"""A small network over the frozen classifier's own features: from the deepest up to the picture's
size.

A feature pyramid (Lin et al., "Feature Pyramid Networks", CVPR 2017) that ends in the picture.
VarSal's readout encoder and InputIBA in one pass are this network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.checks import check_counts

# channels on the coarse grids; a half of it on the finest grid and the picture's own, a quarter for
# the picture
WIDTH = 32


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class FeaturePyramid(nn.Module):
    """Features of the taps, and the picture, to some numbers a pixel.

    Each tap goes through a batch norm without parameters (features of different layers differ in
    scale by orders of magnitude) and a 1x1 convolution. From the deepest up, maps are resized
    bilinearly, added, and mixed by a 3x3 convolution. The finest tap joins with fewer channels; the
    picture joins at its own size, for borders that no feature has.

    Args:
        taps: Channels of every tap by name, from the finest to the deepest (see
            :func:`lit_iba.training.taps.check_taps`).
        outputs: How many numbers a pixel.
        width: Channels on the coarse grids; the finer ones have a half and a quarter of it.
        image_channels: Of the images.

    Raises:
        InputError: A width below 4.
    """

    def __init__(
        self,
        taps: Mapping[str, int],
        outputs: int,
        width: int = WIDTH,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_counts(**{"width / 4": width // 4})
        self.taps, self.width = tuple(taps), width
        fine, picture = width // 2, width // 4
        # The finest tap has its own way in; a single tap is finest and deepest at once.
        self.coarse = self.taps[1:] or self.taps
        self.scale = nn.ModuleList(
            nn.BatchNorm2d(channels, affine=False) for channels in taps.values()
        )
        self.lateral = nn.ModuleList(nn.Conv2d(taps[name], width, 1) for name in self.coarse)
        self.merge = nn.ModuleList(_block(width, width) for _ in self.coarse)
        self.fine = _block(width, fine)
        self.stem = nn.Conv2d(taps[self.taps[0]], fine, 1)
        self.picture = _block(image_channels, picture)
        self.last = _block(fine + picture, fine)
        self.out = nn.Conv2d(fine, outputs, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The taps' outputs, each (B, C, h, w) (see :func:`lit_iba.training.taps.grids`), on one
        scale.
        """
        return {
            name: scale(features[name]) for name, scale in zip(self.taps, self.scale, strict=True)
        }

    def levels(self, scaled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is known at each coarse tap of all that lies deeper, (B, width, h, w) by name."""
        found: dict[str, Tensor] = {}
        hidden: Tensor | None = None
        for name, lateral, merge in reversed(
            list(zip(self.coarse, self.lateral, self.merge, strict=True))
        ):
            read = lateral(scaled[name])  # (B, width, h, w)
            hidden = found[name] = merge(read if hidden is None else read + _resized(hidden, read))
        return found

    def at_pixels(
        self, images: Tensor, scaled: Mapping[str, Tensor], levels: Mapping[str, Tensor]
    ) -> Tensor:
        """The numbers of every pixel, (B, outputs, H, W), of images (B, C, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        finest = scaled[self.taps[0]]
        hidden = self.fine(_resized(levels[self.coarse[0]], finest)) + self.stem(finest)
        joined = torch.cat([_resized(hidden, images), self.picture(images)], dim=1)
        return self.out(self.last(joined))

    def read(self, images: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """The numbers of every pixel, (B, outputs, H, W), of images (B, C, H, W) and the taps'
        outputs for them.
        """
        scaled = self.scaled(features)
        return self.at_pixels(images, scaled, self.levels(scaled))


def _resized(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear")

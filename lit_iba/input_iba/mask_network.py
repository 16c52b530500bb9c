"""The network of InputIBA in one pass: the classifier's features in, the masks of both bottlenecks
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_iba.statistics import FeatureStatistics
from lit_iba.training.feature_pyramid import WIDTH, FeaturePyramid

# Logits are so many times what the last convolutions give, so that few steps reach sharp masks; and
# Lambda starts near 0.95, where everything passes and both terms of the loss have a gradient.
GAIN, START = 4.0, 3.0


class StoredStatistics(nn.Module):
    """Statistics of a feature map as buffers, so that a checkpoint holds them; float32 (*shape)
    each.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.active: Tensor
        self.count: Tensor
        for name in ("mean", "std", "active"):
            self.register_buffer(name, torch.zeros(tuple(shape)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def store(self, statistics: FeatureStatistics) -> None:
        """Keep them."""
        self.mean.copy_(statistics.mean)
        self.std.copy_(statistics.std)
        self.active.copy_(statistics.active)
        self.count.fill_(statistics.count)


class MaskNetwork(FeaturePyramid):
    """Two logits from one :class:`FeaturePyramid`: of the features' mask, at the positions of the
    bottleneck's layer, and of the pixels' mask.

    Args:
        taps: Channels of every tap by name, from the finest to the deepest.
        layer: The tap where the feature bottleneck is; not the finest of several.
        feature_shape: Shape of R there.
        image_shape: (C, H, W) that the images' statistics have.
        width: Channels on the coarse grids.
        picture_channels: Of what is read at the pixels.

    Raises:
        InputError: A width below 4.
    """

    def __init__(
        self,
        taps: Mapping[str, int],
        layer: str,
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        width: int = WIDTH,
        picture_channels: int = 3,
    ) -> None:
        super().__init__(taps, 1, width, picture_channels)
        self.layer = layer
        self.at_layer = nn.Conv2d(width, 1, 1)
        self.feature_statistics = StoredStatistics(feature_shape)
        self.input_statistics = StoredStatistics(image_shape)

    def set_statistics(self, features: FeatureStatistics, images: FeatureStatistics) -> None:
        """Store the statistics of the bottleneck's layer and of the images."""
        self.feature_statistics.store(features)
        self.input_statistics.store(images)

    def forward(self, picture: Tensor, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of lambda (B, 1, h, w) and of Lambda (B, 1, H, W), float32, from what is read at
        the pixels (B, picture_channels, H, W) and of the taps.
        """
        scaled = self.scaled(features)
        levels = self.levels(scaled)
        of_features = GAIN * self.at_layer(levels[self.layer]).float()
        return of_features, START + GAIN * self.at_pixels(picture, scaled, levels).float()

"""The network of InputIBA in one pass: the classifier's features in, the masks of both bottlenecks
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_iba.iba.noise import NoiseModel, floored
from lit_iba.statistics import FeatureStatistics
from lit_iba.training.feature_pyramid import WIDTH, FeaturePyramid

# Logits are so many times what the last convolutions give, so that few steps reach sharp masks; and
# Lambda starts near 0.95, where everything passes and both terms of the loss have a gradient.
GAIN, START = 4.0, 3.0
MIN_STD, ACTIVE = 0.01, 0.01  # as :class:`NoiseModel`'s


class StoredNoise(nn.Module):
    """What takes the place of a feature map's elements, as :class:`NoiseModel`, in buffers: a
    checkpoint holds it, and an export traces it.

    Args:
        shape: Of the feature map.
        active_threshold: An element that is non-zero in at most this share of the images carries no
            information; None where all do.
        dtype: Of mean and deviation as they are kept.
    """

    def __init__(
        self,
        shape: Sequence[int],
        active_threshold: float | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.active_threshold = active_threshold
        self.mean: Tensor
        self.std: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=dtype))
        self.register_buffer("std", torch.ones(tuple(shape), dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.active: Tensor | None
        known = None if active_threshold is None else torch.ones(tuple(shape), dtype=torch.bool)
        self.register_buffer("active", known)

    def store(self, statistics: FeatureStatistics) -> None:
        """Keep what these statistics say."""
        self.mean.copy_(statistics.mean)
        threshold = -1.0 if self.active_threshold is None else self.active_threshold
        active = statistics.active > threshold
        self.std.copy_(floored(statistics.std, MIN_STD, active))
        self.count.fill_(statistics.count)
        if self.active is not None:
            self.active.copy_(active)

    def model(self) -> NoiseModel:
        """As a noise model."""
        mean, std = self.mean.float(), self.std.float()
        active = torch.ones_like(mean) if self.active is None else self.active.to(mean)
        return NoiseModel(mean, std, active, mean)


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
        self.float()  # whatever torch's default is; the images' noise below has fewer digits
        self.feature_noise = StoredNoise(feature_shape, ACTIVE)
        # Normalised pixels are small numbers, and there are many of them.
        self.input_noise = StoredNoise(image_shape, None, torch.float16)

    def set_statistics(self, features: FeatureStatistics, images: FeatureStatistics) -> None:
        """Store what the statistics of the bottleneck's layer and of the images say."""
        self.feature_noise.store(features)
        self.input_noise.store(images)

    def forward(self, picture: Tensor, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of lambda (B, 1, h, w) and of Lambda (B, 1, H, W), float32, from what is read at
        the pixels (B, picture_channels, H, W) and of the taps.
        """
        scaled = self.scaled(features)
        levels = self.levels(scaled)
        of_features = GAIN * self.at_layer(levels[self.layer]).float()
        return of_features, START + GAIN * self.at_pixels(picture, scaled, levels).float()

"""VarSal's encoder over the frozen classifier's own features, and the picture.

Not the paper's, whose encoder (encoder.py) sees the picture alone and so can only guess what the
classifier looks at. Its outputs are those of VarSal (ICLR 2021 submission, 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_iba.training.feature_pyramid import WIDTH, FeaturePyramid
from lit_iba.varsal.encoder import bounded_posterior, raw_for_deviation


class ReadoutEncoder(FeaturePyramid):
    """Mean and log variance of every pixel's saliency, of a :class:`FeaturePyramid`.

    Args:
        taps: Channels of every tap by name, from the finest to the deepest.
        width: Channels on the coarse grids.
        image_channels: Of the images.

    Raises:
        InputError: A width below 4.
    """

    def __init__(
        self, taps: Mapping[str, int], width: int = WIDTH, image_channels: int = 3
    ) -> None:
        super().__init__(taps, 2, width, image_channels)

    def forward(self, images: Tensor, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance, float32 (B, H, W) each; see :meth:`FeaturePyramid.read`."""
        return bounded_posterior(self.read(images, features))

    @torch.no_grad()
    def start_near(self, deviation: float) -> None:
        """As :meth:`lit_iba.varsal.VarSalEncoder.start_near`."""
        self.out.bias[1] = raw_for_deviation(deviation)  # type: ignore[index]

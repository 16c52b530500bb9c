"""The noise model of a bottleneck: which Gaussian replaces the features, as tensors ready for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.statistics import FeatureStatistics


@dataclass(frozen=True)
class NoiseModel:
    """Mean and floored standard deviation per element of R, and which elements carry information.

    Args:
        mean: float32, the shape of R without batch.
        std: likewise, at least the floor.
        active: 1.0 where the element counts, 0.0 where it is replaced by ``inactive_value``.
        inactive_value: What inactive elements become: their mean, or 0 in the authors' code.
    """

    mean: Tensor
    std: Tensor
    active: Tensor
    inactive_value: Tensor

    @classmethod
    def from_statistics(
        cls, statistics: FeatureStatistics, *, kind: str, min_std: float, active_threshold: float, inactive: str
    ) -> NoiseModel:
        """Build from measured statistics.

        Args:
            statistics: Of the bottleneck's layer.
            kind: ``"welford"``: mean and standard deviation; ``"relu_rms"``: mean 0 and the root mean square of non-zero
                values, as the authors' evaluation code does behind a ReLU.
            min_std: Floor of the standard deviation.
            active_threshold: An element that is non-zero in at most this share of the images is inactive.
            inactive: ``"mean"`` or ``"zero"``.
        """
        if statistics.count < 2:
            raise InputError(f"the statistics cover {statistics.count} image(s); estimate them over at least 2, better 1,000")
        if kind == "welford":
            mean, std = statistics.mean, statistics.std
        elif kind == "relu_rms":
            mean, std = torch.zeros_like(statistics.mean), statistics.rms_of_nonzero
        else:
            raise InputError(f"statistics kind {kind!r} is unknown; it must be 'welford' or 'relu_rms'")
        if inactive not in ("mean", "zero"):
            raise InputError(f"inactive is {inactive!r}; it must be 'mean' or 'zero'")
        value = mean if inactive == "mean" else torch.zeros_like(mean)
        return cls(
            mean.float(), std.clamp_min(min_std).float(), (statistics.active > active_threshold).float(), value.float()
        )

    def to(self, device: torch.device) -> NoiseModel:
        """The same on another device."""
        return NoiseModel(*(t.to(device) for t in (self.mean, self.std, self.active, self.inactive_value)))

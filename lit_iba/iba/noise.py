"""The noise model of a bottleneck: which Gaussian replaces the features, as tensors ready for the
device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.iba.bottleneck import channels_last, mix
from lit_iba.statistics import FeatureStatistics

logger = logging.getLogger(__name__)


def noise_like(r: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal numbers (B, *R) in the order of memory of ``channels_last(r)``, each image's
    from its own generator.
    """
    shape = r.shape[1:] if r.ndim != 4 else (*r.shape[2:], r.shape[1])
    drawn = torch.empty(len(r), *shape, device=r.device)
    for own, generator in zip(drawn, generators, strict=True):
        own.normal_(generator=generator)
    return drawn if r.ndim != 4 else drawn.movedim(-1, 1)


def floored(std: Tensor, floor: float, active: Tensor) -> Tensor:
    """Deviations with a floor: ``floor``, or the root mean square of the active ones where that is
    smaller.

    A network may work in any unit. Where even the larger deviations are below the floor, noise of
    that size would drown every feature, and the map would show nothing of the network. Elements
    that hardly vary beside others that do are no reason for a lower floor: it is there for them.
    """
    size = float(std[active].square().mean().sqrt()) if bool(active.any()) else 0.0
    return std.clamp_min(min(floor, size) if size > 0 else floor)


@dataclass(frozen=True)
class NoiseModel:
    """Mean and floored standard deviation per element of R, and which elements carry information.

    Args:
        mean: float32, the shape of R without batch.
        std: likewise, at least the floor.
        active: 1.0 where the element counts, 0.0 where it is replaced by ``inactive_value``.
        inactive_value: What inactive elements become: their mean, or 0 in the authors' code.

    Example:
        >>> from lit_iba.iba import NoiseModel
        >>> noise = NoiseModel.from_statistics(statistics, min_std=0.01)
        >>> noise.std.shape
        torch.Size([64, 16, 16])
        >>> bool((noise.std >= 0.0099).all())
        True
    """

    mean: Tensor
    std: Tensor
    active: Tensor
    inactive_value: Tensor

    @classmethod
    def from_statistics(
        cls,
        statistics: FeatureStatistics,
        *,
        kind: Literal["welford", "relu_rms"] = "welford",
        min_std: float = 0.01,
        active_threshold: float = 0.01,
        inactive: Literal["mean", "zero"] = "mean",
    ) -> NoiseModel:
        """Build from measured statistics.

        Args:
            statistics: Of the bottleneck's layer.
            kind: ``"welford"``: mean and standard deviation; ``"relu_rms"``: mean 0 and the root
                mean square of non-zero values, as the authors' evaluation code does behind the
                ReLUs of a ResNet.
            min_std: Floor of the standard deviation, see :func:`floored`.
            active_threshold: An element that is non-zero in at most this share of the images is
                inactive.
            inactive: ``"mean"`` or ``"zero"``.

        Raises:
            InputError: Too few images, or a choice that does not exist.
        """
        check_literals(cls.from_statistics, locals())
        if statistics.count < 2:
            raise InputError(
                f"the statistics cover {statistics.count} image(s); estimate them over at least 2,"
                " better 1,000"
            )
        if kind == "welford":
            mean, std = statistics.mean, statistics.std
        else:
            mean, std = torch.zeros_like(statistics.mean), statistics.rms_of_nonzero
        value = mean if inactive == "mean" else torch.zeros_like(mean)
        active = statistics.active > active_threshold
        return cls(
            mean.float(), floored(std, min_std, active).float(), active.float(), value.float()
        )

    def to(self, device: torch.device) -> NoiseModel:
        """The same on another device."""
        with torch.inference_mode(
            False
        ):  # it is kept, and what inference mode makes cannot be trained with
            return NoiseModel(
                *(t.to(device) for t in (self.mean, self.std, self.active, self.inactive_value))
            )

    def channels_last(self) -> NoiseModel:
        """The same with its channels side by side in memory, where elements are (C, h, w)."""
        return NoiseModel(
            *(
                channels_last(t[None])[0]
                for t in (self.mean, self.std, self.active, self.inactive_value)
            )
        )

    def restrict(self, r: Tensor, keep: Tensor, drop: Tensor, unit_noise: Tensor) -> Tensor:
        """Z: the feature map (B, *R) as it passes the bottleneck, with copies in front where the
        noise has them.
        """
        inactive = (1 - self.active) * self.inactive_value
        return mix(
            r,
            keep * self.active,
            drop * self.active,
            self.mean,
            self.std,
            unit_noise,
            offset=inactive,
        )

    def fit_to(self, r: Tensor, layout: Layout) -> NoiseModel:
        """The noise model for feature maps ``r`` (B, *R), resampled where the images have another
        size than the statistics.

        Statistics are then interpolated between positions, which is sound as far as they vary
        slowly over the picture.

        Raises:
            InputError: The feature maps have other channels, or tokens, whose statistics cannot be
                interpolated.
        """
        if r.shape[1:] == self.mean.shape:
            return self
        own = (
            layout.grid(self.mean).shape
            if layout.kind in ("BCHW", "BHWC") and self.mean.ndim == 3
            else None
        )
        if own is None or own[0] != layout.grid(r).shape[1]:
            raise InputError(
                f"the feature map {tuple(r.shape[1:])} does not fit statistics for"
                f" {tuple(self.mean.shape)}; estimate the statistics of this layer at this image"
                " size"
            )
        logger.warning(
            "statistics for a feature map of %s are interpolated to %s; estimate them at this image"
            " size for exact bits",
            tuple(self.mean.shape),
            tuple(r.shape[1:]),
        )

        def resample(values: Tensor) -> Tensor:
            grid = layout.grid(values)[None]
            size = (layout.height, layout.width)
            return layout.ungrid(
                F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0]
            )

        active = (resample(self.active) >= 0.5).float()
        return NoiseModel(
            resample(self.mean), resample(self.std), active, resample(self.inactive_value)
        )

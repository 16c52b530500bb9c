"""The network of the Readout bottleneck: features at several depths in, the mask of one layer
out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.iba.noise import NoiseModel
from lit_iba.iba.per_sample_settings import check_noise
from lit_iba.statistics import FeatureStatistics

PAPER_TAPS = {
    "resnet50": ("layer1", ["layer1", "layer2", "layer3", "layer4", "fc"]),
    "vgg16": (
        "features.10",
        ["features.10", "features.17", "features.24", "features.28", "classifier.6"],
    ),
}


@dataclass(frozen=True)
class ReadoutSettings:
    """Shape of a readout network; values of table 3 and the authors' code.

    Args:
        hidden: Channels after the first and second 1x1 convolution; None takes half of all tapped
            channels, and a quarter of the bottleneck's (at least 16), as the authors' evaluation
            code.
        smoothing_sigma: Standard deviation of the blur of lambda, in positions.
        statistics_kind: ``"welford"`` or ``"relu_rms"``, of the noise and of the taps, see
            :class:`NoiseModel`.
        min_std: Floor of the standard deviations; where all of a layer's are
            about as small or smaller, the root of their mean square.
        active_threshold: Elements active in at most this share of images carry no information.
        relu_clamp: Whether Z is clamped to be non-negative, as the authors' evaluation code does
            behind the ReLUs of a ResNet.
        tap_norm: ``"mean_std"``, or ``"std"``: taps are divided by their scale without centring.
        align_corners: How taps are resized; the authors' code aligns corners.
        clamp_alpha: Limit of |alpha|; None for none. The authors clamp to 5, on which their initial
            bias sits.
        initial_alpha: Bias of the last convolution. The authors start at 5, where nearly everything
            passes and the cross-entropy hardly depends on lambda; with a large learning rate the
            information term alone then drives lambda to zero, from where it does not come back. At
            0 both terms have a gradient from the first step.

    Example:
        >>> from lit_iba.iba import ReadoutSettings
        >>> ReadoutSettings(hidden=(64, 32)).initial_alpha
        0.0
    """

    hidden: tuple[int, int] | None = None
    smoothing_sigma: float = 1.0
    statistics_kind: Literal["welford", "relu_rms"] = "welford"
    min_std: float = 0.01
    active_threshold: float = 0.01
    relu_clamp: bool = False
    tap_norm: Literal["mean_std", "std"] = "mean_std"
    align_corners: bool = False
    clamp_alpha: float | None = None
    initial_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_literals(self)
        check_noise(self.min_std, self.smoothing_sigma, self.active_threshold)
        if self.clamp_alpha is not None:
            check_numbers(0, exclusive=True, clamp_alpha=self.clamp_alpha)
        if self.hidden is None:
            return
        if not isinstance(self.hidden, list | tuple) or len(self.hidden) != 2:
            raise InputError(
                f"hidden is {self.hidden!r}; it must be two numbers of channels, after the first "
                "and the second convolution, such as [64, 32]"
            )
        first, second = self.hidden
        check_counts(**{"hidden[0]": first, "hidden[1]": second})


class ReadoutNetwork(nn.Module):
    """Three 1x1 convolutions from standardised taps to alpha, with the noise model of the
    bottleneck beside them.

    Args:
        layer: Where the bottleneck is.
        taps: Names of the taps.
        shapes: Shape of every tap's output for one image, and of the bottleneck's layer, by name.
        layouts: Layout of the same.
        settings: The network's shape.

    Example:
        >>> from lit_iba.iba import ReadoutIBA, ReadoutNetwork
        >>> explainer = ReadoutIBA.load("runs/readout/last.ckpt")
        >>> isinstance(explainer.trained, ReadoutNetwork)
        True
    """

    def __init__(
        self,
        layer: str,
        taps: Sequence[str],
        shapes: dict[str, torch.Size],
        layouts: dict[str, Layout],
        settings: ReadoutSettings,
    ) -> None:
        super().__init__()
        self.layer, self.taps, self.settings = layer, tuple(taps), settings
        channels = {name: _channels(shapes[name], layouts[name]) for name in {*taps, layer}}
        total = sum(channels[name] for name in taps)
        first, second = settings.hidden or (total // 2, max(channels[layer] // 4, 16))
        self.read = nn.ModuleList(nn.Conv2d(channels[name], first, 1, bias=False) for name in taps)
        self.bias = nn.Parameter(torch.zeros(first))
        self.mix = nn.Conv2d(first, second, 1)
        self.write = nn.Conv2d(second, channels[layer], 1)
        with torch.no_grad():
            # As one convolution over the concatenated taps would be initialised.
            for convolution in self.read:
                nn.init.uniform_(convolution.weight, -1 / math.sqrt(total), 1 / math.sqrt(total))  # type: ignore[arg-type]
            self.write.weight.mul_(1e-3)
            self.write.bias.fill_(settings.initial_alpha)  # type: ignore[union-attr]
        for i, name in enumerate(taps):
            self.register_buffer(f"tap_mean_{i}", torch.zeros(shapes[name]))
            self.register_buffer(f"tap_std_{i}", torch.ones(shapes[name]))
        for part in ("mean", "std", "active"):
            self.register_buffer(
                f"noise_{part}", torch.full(shapes[layer], 0.0 if part == "mean" else 1.0)
            )
        self.register_buffer("images_measured", torch.zeros((), dtype=torch.int64))
        self.images_measured: Tensor

    def set_statistics(self, statistics: dict[str, FeatureStatistics]) -> None:
        """Store the statistics of the taps and of the bottleneck's layer."""
        s = self.settings
        for i, name in enumerate(self.taps):
            tap = NoiseModel.from_statistics(
                statistics[name], kind=s.statistics_kind, min_std=s.min_std, active_threshold=-1.0
            )
            centre = tap.mean if s.tap_norm == "mean_std" else torch.zeros_like(tap.mean)
            self.get_buffer(f"tap_mean_{i}").copy_(centre)
            self.get_buffer(f"tap_std_{i}").copy_(tap.std)
        noise = NoiseModel.from_statistics(
            statistics[self.layer],
            kind=s.statistics_kind,
            min_std=s.min_std,
            active_threshold=s.active_threshold,
        )
        for part in ("mean", "std", "active"):
            self.get_buffer(f"noise_{part}").copy_(getattr(noise, part))
        self.images_measured.fill_(statistics[self.layer].count)

    def noise(self, r: Tensor, layout: Layout) -> NoiseModel:
        """The bottleneck's noise model for feature maps ``r``."""
        mean = self.get_buffer("noise_mean")
        own = NoiseModel(mean, self.get_buffer("noise_std"), self.get_buffer("noise_active"), mean)
        return own.fit_to(r, layout)

    def forward(self, taps: dict[str, Tensor], layouts: dict[str, Layout]) -> Tensor:
        """alpha (B, *R) from the taps' outputs."""
        layout = layouts[self.layer]
        size = (layout.height, layout.width)
        everywhere, reads = self.bias[:, None, None], []  # taps without positions add a constant
        for i, name in enumerate(self.taps):
            mean, std = self.get_buffer(f"tap_mean_{i}"), self.get_buffer(f"tap_std_{i}")
            tap = NoiseModel(mean, std, torch.ones_like(std), mean).fit_to(
                taps[name], layouts[name]
            )
            standard = layouts[name].grid((taps[name] - tap.mean) / tap.std)
            read = self.read[i](standard.contiguous(memory_format=torch.channels_last))
            if read.shape[-2:] == (1, 1):
                everywhere = everywhere + read
            else:
                reads.append(read)
        alpha = self.write(F.relu(self.mix(F.relu_(self._sum(reads, everywhere, size)))))
        if self.settings.clamp_alpha is not None:
            alpha = alpha.clamp(-self.settings.clamp_alpha, self.settings.clamp_alpha)
        if layout.kind == "BTC" and layout.prefix:
            # Tokens without a position are given the mean of the others.
            prefix = alpha.mean(dim=(2, 3))[:, None].expand(-1, layout.prefix, -1)
            return layout.ungrid(alpha, prefix)
        return layout.ungrid(alpha)

    def _sum(self, reads: list[Tensor], everywhere: Tensor, size: tuple[int, int]) -> Tensor:
        """The taps' reads (B, first, ., .) resized to one size and added up, plus what is the same
        at all positions.

        Resizing commutes with a 1x1 convolution and leaves constants alone; so the convolutions run
        at their taps' own size and the constants are added to the smallest map. The large sum is
        made in place: memory traffic is what costs here.
        """
        if not reads:
            return everywhere.expand(-1, -1, *size).clone()
        reads = sorted(reads, key=lambda read: read.shape[-2] * read.shape[-1])
        reads[0] = reads[0] + everywhere
        corners, total = self.settings.align_corners, None
        for read in reversed(reads):
            if read.shape[-2:] != size:
                read = F.interpolate(read, size=size, mode="bilinear", align_corners=corners)
            total = read if total is None else total.add_(read)
        assert total is not None
        return total


def _channels(shape: torch.Size, layout: Layout) -> int:
    return shape[0] if layout.kind in ("BCHW", "BC") else shape[-1]

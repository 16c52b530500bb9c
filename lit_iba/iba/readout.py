"""Readout information bottleneck: a small network reads features at several depths and predicts the
mask in one pass.

IBA (Schulz et al., ICLR 2020), section 3.3 and table 3. The first 1x1 convolution runs on each tap
at its native size: it commutes with the bilinear resize, which makes it ten times cheaper than on
the resized and concatenated taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution
from lit_iba.heatmap import resize_keeping_total
from lit_iba.iba.bottleneck import (
    NATS_PER_BIT,
    bits_per_position,
    information_nats,
    mask_from_logits,
    require_positions,
)
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.iba.noise import NoiseModel
from lit_iba.statistics import FeatureStatistics
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained

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
        min_std: Floor of the standard deviations.
        active_threshold: Elements active in at most this share of images carry no information.
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
    min_std: float = 0.01
    active_threshold: float = 0.01
    tap_norm: Literal["mean_std", "std"] = "mean_std"
    align_corners: bool = False
    clamp_alpha: float | None = None
    initial_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_literals(self)


PRESETS: dict[str, ReadoutSettings] = {
    "default": ReadoutSettings(),
    "reference": ReadoutSettings(
        smoothing_sigma=0.0, tap_norm="std", align_corners=True, clamp_alpha=5.0, initial_alpha=5.0
    ),
}


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
                statistics[name], min_std=s.min_std, active_threshold=-1.0
            )
            centre = tap.mean if s.tap_norm == "mean_std" else torch.zeros_like(tap.mean)
            self.get_buffer(f"tap_mean_{i}").copy_(centre)
            self.get_buffer(f"tap_std_{i}").copy_(tap.std)
        noise = NoiseModel.from_statistics(
            statistics[self.layer], min_std=s.min_std, active_threshold=s.active_threshold
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
        at their taps' own size
        and the constants are added to the smallest map. The large sum is made in place: memory
            traffic is what costs here.
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


class ReadoutIBA(TrainedExplainer):
    """The Readout bottleneck explainer.

    Args:
        classifier: The network to explain.
        layer: Where the bottleneck is; by default the paper's choice for this network.
        taps: Layers that are read; by default the paper's.
        statistics: Feature statistics of every tap and of the bottleneck's layer; None leaves them
            to training or loading.
        preset: ``"default"`` or ``"reference"`` (the authors' evaluation code).
        settings: Any of :class:`ReadoutSettings`.

    Raises:
        InputError: Unknown layers or settings.

    Example:
        >>> from lit_iba import ReadoutIBA
        >>> from lit_iba.statistics import estimate_layers
        >>> found = estimate_layers(classifier, ["layer2", "layer3"], images)
        >>> explainer = ReadoutIBA(classifier, "layer2", ["layer2", "layer3"], found)  # untrained
        >>> heatmap = explainer.attribute(images, targets)
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([2, 64, 64]), 'bits')
        >>> trained = ReadoutIBA.load("runs/readout/last.ckpt")
        >>> trained.attribute(images).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "readout_iba"
    label: ClassVar[str] = "IBA Readout"
    training = "ReadoutTraining"
    unit = "bits"
    outputs = (
        Output(
            "heatmap",
            "bits",
            "Information in bits that each pixel's place contributes; a map's sum is the information that passes the "
            "bottleneck, less what lies in tokens without a place, such as a class token.",
        ),
    )

    def __init__(
        self,
        classifier: FrozenClassifier,
        layer: str | None = None,
        taps: Sequence[str] | None = None,
        statistics: dict[str, FeatureStatistics] | None = None,
        *,
        seed: int = 0,
        preset: str = "default",
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        if layer is None or taps is None:
            if classifier.name not in PAPER_TAPS:
                raise InputError(
                    f"the paper names no readout layers for {classifier.name}; give layer and taps"
                )
            layer, taps = (
                layer or PAPER_TAPS[classifier.name][0],
                taps or PAPER_TAPS[classifier.name][1],
            )
        if preset not in PRESETS:
            raise InputError(
                f"preset {preset!r} of ReadoutIBA is unknown; it must be one of {', '.join(PRESETS)}"
            )
        try:
            chosen = ReadoutSettings(**{**vars(PRESETS[preset]), **settings})
        except TypeError as error:
            raise InputError(
                f"ReadoutIBA: {error}; its settings are {', '.join(vars(PRESETS[preset]))}"
            ) from error
        self.layer, self.taps, self._measured = layer, list(taps), False
        self.split = classifier.split(layer, taps)
        image_size = (classifier.preprocessing.crop, classifier.preprocessing.crop)
        with torch.no_grad():
            r, _, tapped = self.split.observe(classifier.empty_images())
        shapes = {name: tap.shape[1:] for name, tap in tapped.items()} | {layer: r.shape[1:]}
        self.network = ReadoutNetwork(
            layer, self.taps, shapes, self.layouts(r, tapped, image_size), chosen
        )
        require_positions(self.layouts(r, tapped, image_size)[layer], layer)
        if statistics is not None:
            self.network.set_statistics(statistics)
        self.network.to(classifier.device)

    def layouts(
        self, r: Tensor, taps: dict[str, Tensor], image_size: tuple[int, int]
    ) -> dict[str, Layout]:
        """Layout of every tap and of R for images of this size."""
        return self.classifier.layouts_of({**taps, self.layer: r}, image_size)

    def bottleneck(
        self, r: Tensor, taps: dict[str, Tensor], layouts: dict[str, Layout]
    ) -> tuple[Tensor, Tensor, Tensor, NoiseModel]:
        """lambda, 1 - lambda and nats per element, all (B, *R), and the noise model."""
        layout = layouts[self.layer]
        alpha = self.network(taps, layouts)
        noise = self.network.noise(r, layout)
        with torch.autocast(r.device.type, enabled=False):  # logarithms need float32
            keep, drop = mask_from_logits(
                alpha.float(), self.network.settings.smoothing_sigma, layout
            )
            nats = information_nats((r.float() - noise.mean) / noise.std, keep, drop) * noise.active
        return keep, drop, nats, noise

    def heatmap_values(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Bits per pixel (B, H, W) in one deterministic pass, and the bits without a position; this
        is what is exported.
        """
        size = (images.shape[-2], images.shape[-1])
        r, _, taps = self.split.observe(images)
        layouts = self.layouts(r, taps, size)
        _, _, nats, _ = self.bottleneck(r, taps, layouts)
        bits, undrawn = bits_per_position(nats / NATS_PER_BIT, layouts[self.layer])
        return resize_keeping_total(bits, size), undrawn

    @torch.no_grad()
    def masked_feature(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> MaskedFeature:
        """The predicted mask of every image of the batch, with all that Z is made of."""
        r, carried, taps = self.split.observe(images)
        layouts = self.layouts(r, taps, (images.shape[-2], images.shape[-1]))
        keep, drop, nats, noise = self.bottleneck(r, taps, layouts)
        return MaskedFeature(
            r, keep, drop, nats, noise, layouts[self.layer], carried, self.split.tail
        )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One pass; the targets do not matter, for the readout was trained to keep what the
        prediction needs.
        """
        # Asked until it is so, for the question makes the host wait.
        self._measured = self._measured or bool(int(self.network.images_measured))
        if not self._measured:
            raise InputError(
                "this readout network has no statistics yet; train it, load a checkpoint, or give statistics"
            )
        with torch.no_grad():
            return Attribution(*self.heatmap_values(images))

    @property
    def trained(self) -> nn.Module:
        """The readout network."""
        return self.network

    @property
    def record(self) -> dict[str, Any]:
        """Layers, seed and the readout's settings."""
        readout = dict(vars(self.network.settings))
        return {"layer": self.layer, "taps": list(self.taps), "seed": self.seed, "readout": readout}

    @classmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> ReadoutIBA:
        """See the base class."""
        readout: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record["readout"].items()
        }
        return cls(classifier, record["layer"], record["taps"], seed=record["seed"], **readout)

    def program_modules(self) -> dict[str, nn.Module]:
        """See the base class."""
        # The traced cut holds only the layers up to the last tap. Cut with hooks, the whole
        # classifier runs.
        observe = self.split.observer
        trunk = observe if isinstance(observe, nn.Module) else self.classifier.model
        return {"classifier": trunk, "readout": self.network}

    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """Bits per pixel."""
        return (self.heatmap_values(images)[0],)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> ReadoutIBA:
        """A trained readout from a checkpoint of ``ReadoutTraining``.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: ``seed``, if another one is wanted.

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another
                classifier.
        """
        checkpoint, classifier = cls.read(path, classifier)
        saved = checkpoint["hyper_parameters"]
        explainer = cls(
            classifier,
            saved["layer"],
            saved["taps"],
            preset=saved["preset"],
            **{**saved["readout"], **settings},
        )
        load_trained(explainer.network, checkpoint["state_dict"], "network.", str(path))
        return explainer

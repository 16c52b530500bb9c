"""Readout information bottleneck: a small network reads features at several depths and predicts the
mask in one pass.

IBA (Schulz et al., ICLR 2020), section 3.3 and table 3. The first 1x1 convolution runs on each tap
at its native size: it commutes with the bilinear resize, which makes it ten times cheaper than on
the resized and concatenated taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_iba.checks import check_taken
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
from lit_iba.iba.readout_network import PAPER_TAPS, ReadoutNetwork, ReadoutSettings
from lit_iba.statistics import FeatureStatistics
from lit_iba.training.checkpoint import entries_of
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained, single

PAPER = ReadoutSettings(
    smoothing_sigma=0.0,
    # What the authors' estimator gives a unit that was never active: sqrt(1e-5).
    min_std=1e-5**0.5,
    active_threshold=-1.0,
    tap_norm="std",
    align_corners=True,
    clamp_alpha=5.0,
    initial_alpha=5.0,
)
PRESETS: dict[str, ReadoutSettings] = {
    "default": ReadoutSettings(),
    # What the paper's evaluation code does: behind the ReLUs of ResNet-50, and at VGG-16's
    # convolutions.
    "reference": replace(PAPER, statistics_kind="relu_rms", relu_clamp=True),
    "reference_vgg16": PAPER,
}


class ReadoutIBA(TrainedExplainer):
    """The Readout bottleneck explainer.

    Args:
        classifier: The network to explain.
        layer: Where the bottleneck is; by default the paper's choice for this network.
        taps: Layers that are read; by default the paper's.
        statistics: Feature statistics of every tap and of the bottleneck's layer; None leaves them
            to training or loading.
        preset: ``"default"``, or what the authors' evaluation code does: ``"reference"`` for
            ResNet-50, ``"reference_vgg16"`` for VGG-16.
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
    config = "configs/train/readout_resnet50.yaml"
    unit = "bits"
    asks = False
    outputs = (
        Output(
            "heatmap",
            "bits",
            "Information in bits that each pixel's place contributes; a map's sum is the "
            "information that passes the bottleneck, less what lies in tokens without a place, "
            "such as a class token.",
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
                f"preset {preset!r} of ReadoutIBA is unknown; it must be one of "
                f"{', '.join(PRESETS)}"
            )
        check_taken(ReadoutSettings, settings, "readout_iba")
        chosen = ReadoutSettings(**{**vars(PRESETS[preset]), **settings})
        if not taps:
            raise InputError("taps is empty; name the layers that the readout network reads")
        self.layer, self.taps, self._measured = layer, list(taps), False
        self.split = classifier.split(layer, taps)
        image_size = classifier.preprocessing.size
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
        alpha = self.network({name: single(tap) for name, tap in taps.items()}, layouts)
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
        layout, clamp = layouts[self.layer], self.network.settings.relu_clamp
        return MaskedFeature(r, keep, drop, nats, noise, layout, carried, self.split.tail, clamp)

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
                "this readout network has no statistics yet; train it, load a checkpoint, or give "
                "statistics"
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
        cls,
        path: str | Path,
        classifier: FrozenClassifier | None = None,
        *,
        beta: float | None = None,
        **settings: Any,
    ) -> ReadoutIBA:
        """A trained readout from a checkpoint of ``ReadoutTraining``.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            beta: What it was trained with, for a report to know it by; refused where it is not.
            settings: ``seed``, if another one is wanted.

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another
                classifier or with another beta.
        """
        checkpoint, classifier = cls.read(path, classifier)
        with entries_of(path, settings):
            saved = checkpoint["hyper_parameters"]
            if beta is not None and float(beta) != float(saved["beta"]):
                raise InputError(
                    f"{path} was trained with beta {saved['beta']:g}, not {beta:g}; give that, or"
                    " the checkpoint of the other training"
                )
            explainer = cls(
                classifier,
                saved["layer"],
                saved["taps"],
                preset=saved["preset"],
                **{**saved["readout"], **settings},
            )
            load_trained(explainer.network, checkpoint["state_dict"], "network.", str(path))
            explainer.trained_with = {
                "layer": saved["layer"],
                "beta": float(saved["beta"]),
                "preset": saved["preset"],
                **saved["readout"],
            }
            return explainer

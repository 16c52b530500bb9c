"""InputIBA in one pass: a trained network reads the classifier's features and gives the masks of
both bottlenecks, with nothing optimised for the image.

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021), find for each image a mask in the features, a prior from it and a mask
at the pixels. Here one network gives all three, trained over a data set as readout_training.py
says; the paper has no such form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier, usual_layer
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
from lit_iba.iba.noise import NoiseModel
from lit_iba.input_iba.bottleneck import input_information_bits
from lit_iba.input_iba.mask_network import MaskNetwork
from lit_iba.input_iba.observed import Observed, observe_features, observe_gradients
from lit_iba.training.averaged import AVERAGE
from lit_iba.training.checkpoint import entries_of
from lit_iba.training.feature_pyramid import WIDTH
from lit_iba.training.taps import check_taps, last_of_each_resolution
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained, single

ReadoutOutput = Literal["passed", "mask", "prior_mask", "bits"]
# Unlike the fit to one image, whose lambda_G is never below 1/2: a prior that lets little of the
# background through. Logits from -2, where there is no information, to 4.
PRIOR_SHIFT, PRIOR_CAP = -2.0, 6.0
SMOOTHING = 1.0  # blur of lambda in positions, and of Lambda in pixels, as in the fit to one image

MEANINGS: dict[str, str] = {
    "passed": "Share of each pixel, 0 to 1, that passes both bottlenecks, in the features and at "
    "the pixels, and with which the classifier still predicts the same.",
    "mask": "Share of each pixel, 0 to 1, that passes the bottleneck at the pixels.",
    "prior_mask": "Share of each pixel, 0 to 1, that the bottleneck in the features lets pass.",
    "bits": "Information in bits that each pixel adds to what the features' bottleneck tells.",
}


@dataclass(frozen=True)
class Predicted:
    """The masks of a batch of images.

    Args:
        r: R, (B, *R).
        noise: What replaces R.
        feature_keep: lambda, (B, *R).
        feature_drop: 1 - lambda.
        feature_nats: Information in the features, nats per element (B, *R).
        prior_logits: Of lambda_G, (B, 1, H, W).
        keep: Lambda, (B, 1, H, W).
        drop: 1 - Lambda.
    """

    r: Tensor
    noise: NoiseModel
    feature_keep: Tensor
    feature_drop: Tensor
    feature_nats: Tensor
    prior_logits: Tensor
    keep: Tensor
    drop: Tensor


class ReadoutInputIBA(TrainedExplainer):
    """InputIBA in one pass.

    Args:
        classifier: The network to explain.
        layer: Where the feature bottleneck is; by default as :class:`InputIBA`.
        taps: Layers that the network reads, ``layer`` among them; None takes the last stage of each
            resolution.
        width: Channels of the network on its coarse grids.
        gradients: Whether the network reads the gradient of the target's score beside the features
            and the picture: one pass forward and one back, and a map of the target asked for.
            Without, one pass forward, the predicted target's map, and a program can be exported.
        output: What the map is: lambda_G Lambda, the share of a pixel that passes both bottlenecks
            (remark 1: Z_I = Lambda Z_G + (1 - Lambda) eps, ``"passed"``); Lambda alone
            (``"mask"``); lambda_G (``"prior_mask"``); or proposition 3's ``"bits"`` per pixel.
        seed: Unused; nothing here is random.

    Raises:
        InputError: Unknown layer or setting, or a bottleneck at the finest of several taps.

    Example:
        >>> from lit_iba.input_iba import ReadoutInputIBA
        >>> explainer = ReadoutInputIBA(classifier, "layer2", width=8)
        >>> explainer.trained.__class__.__name__
        'MaskNetwork'
    """

    name: ClassVar[str] = "readout_input_iba"
    label: ClassVar[str] = "InputIBA in one pass"
    training = "InputIBATraining"
    config = "configs/train/input_iba_resnet18.yaml"
    changeable = ("output", "seed")
    outputs = (Output("heatmap", "1", MEANINGS["passed"]),)

    def __init__(
        self,
        classifier: FrozenClassifier,
        layer: str | None = None,
        taps: Sequence[str] | None = None,
        width: int = WIDTH,
        gradients: bool = True,
        output: ReadoutOutput = "passed",
        *,
        seed: int = 0,
    ) -> None:
        check_literals(ReadoutInputIBA.__init__, locals())
        super().__init__(classifier, seed=seed)
        self.layer, self.output = usual_layer(classifier, layer), output
        self.gradients = self.asks = gradients
        self.unit = "bits" if output == "bits" else "1"
        self.outputs = (Output("heatmap", self.unit, MEANINGS[output]),)  # type: ignore[misc]
        named = taps or {**dict.fromkeys(last_of_each_resolution(classifier)), self.layer: None}
        found = check_taps(classifier, list(named))
        self.taps = list(found)
        if self.layer not in (self.taps[1:] or self.taps):
            raise InputError(
                f"the bottleneck is at {self.layer!r}, and the taps are {self.taps}, from the"
                " finest to the deepest; it must be one of them, and not the finest"
            )
        require_positions(classifier.layout(self.layer), self.layer)
        # A graph that ends with the last tap, or a function that runs the whole network.
        self.trunk: Callable[[Tensor], dict[str, Tensor]] = classifier.taps(self.taps)
        times = 2 if gradients else 1
        self.network = MaskNetwork(
            {name: times * channels for name, channels in found.items()},
            self.layer,
            classifier.feature_shape(self.layer),
            (classifier.channels, *classifier.preprocessing.size),
            width,
            times * classifier.channels,
        ).to(classifier.device)
        self._measured = False

    def observe(self, images: Tensor, targets: Tensor | None = None) -> Observed:
        """What the network reads of images (B, C, H, W), in one pass forward, and one back with
        ``gradients``, which are of the score of ``targets``, by default what is predicted.
        """
        if self.gradients:
            return observe_gradients(self.classifier, self.taps, images, targets)
        with torch.no_grad():
            return observe_features(self.classifier, self.trunk, images)

    def predict(
        self, images: Tensor, seen: Observed | None = None, network: MaskNetwork | None = None
    ) -> Predicted:
        """All masks of images (B, C, H, W).

        Args:
            images: Normalised.
            seen: What :meth:`observe` gives for them, by default for what is predicted.
            network: That predicts, by default the explainer's own.
        """
        size = (images.shape[-2], images.shape[-1])
        seen, network = seen or self.observe(images), network or self.network
        logits, alpha = network(seen.picture, seen.read)
        r = single(seen.taps[self.layer])
        layout = self.classifier.layout_of(self.layer, r.shape, size)
        noise = network.feature_noise.model().fit_to(r, layout)
        with torch.autocast(images.device.type, enabled=False):  # logarithms need float32
            grid = Layout("BCHW", *logits.shape[-2:])
            keep, drop = (
                _over_features(mask, layout, r)
                for mask in mask_from_logits(logits, SMOOTHING, grid)
            )
            nats = information_nats((r.float() - noise.mean) / noise.std, keep, drop) * noise.active
            bits, _ = bits_per_position(nats / NATS_PER_BIT, layout)
            prior = PRIOR_SHIFT + resize_keeping_total(bits, size).clamp_max(PRIOR_CAP)[:, None]
            pixels = mask_from_logits(alpha, SMOOTHING, Layout("BCHW", *size))
        return Predicted(r, noise, keep, drop, nats, prior, *pixels)

    def input_noise(self, images: Tensor) -> NoiseModel:
        """What replaces a picture's pixels, as training's pictures have them."""
        layout = Layout("BCHW", images.shape[-2], images.shape[-1])
        return self.network.input_noise.model().fit_to(images, layout)

    def drawn(self, images: Tensor, found: Predicted) -> Tensor:
        """The map (B, H, W) that ``output`` asks for."""
        prior_keep = torch.sigmoid(found.prior_logits)
        if self.output == "bits":
            noise = self.input_noise(images)
            r = (single(images) - noise.mean) / noise.std
            prior_drop = torch.sigmoid(-found.prior_logits)
            return input_information_bits(r, found.keep, found.drop, prior_drop).sum(dim=1)
        masks = {"passed": prior_keep * found.keep, "mask": found.keep, "prior_mask": prior_keep}
        return masks[self.output].mean(dim=1)

    def check_trained(self) -> None:
        """Refuse to explain before training.

        Raises:
            InputError: There are no statistics yet.
        """
        # Asked until it is so, for the question makes the host wait.
        self._measured = self._measured or bool(int(self.network.input_noise.count))
        if not self._measured:
            raise InputError(
                "this mask network has no statistics yet; train it, or load a checkpoint"
            )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One pass, and one back where gradients are read."""
        self.check_trained()
        seen, training = self.observe(images, targets), self.network.training
        self.network.eval()  # or an image's result would depend on its batch
        try:
            with torch.no_grad():
                return Attribution(self.drawn(images, self.predict(images, seen)))
        finally:
            self.network.train(training)

    @property
    def trained(self) -> nn.Module:
        """The mask network."""
        return self.network

    @property
    def record(self) -> dict[str, Any]:
        """Layers, width, what the map is, and the seed."""
        return {
            "layer": self.layer,
            "taps": list(self.taps),
            "width": self.network.width,
            "gradients": self.gradients,
            "output": self.output,
            "seed": self.seed,
        }

    @classmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> ReadoutInputIBA:
        """See the base class."""
        return cls(classifier, **record)

    def program_modules(self) -> dict[str, nn.Module]:
        """See the base class."""
        trunk = self.trunk if isinstance(self.trunk, nn.Module) else self.classifier.model
        return {"classifier": trunk, "masks": self.network}

    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """The map of one pass.

        Raises:
            InputError: It takes gradients.
        """
        if self.gradients:
            raise InputError(
                "this explainer reads gradients, which no exported program can take; export it as"
                " safetensors, or train one with gradients: false"
            )
        return (self.drawn(images, self.predict(images)),)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> ReadoutInputIBA:
        """A trained mask network from a checkpoint of ``InputIBATraining``.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: ``output`` or ``seed``.

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another
                classifier.
        """
        checkpoint, classifier = cls.read(path, classifier)
        with entries_of(path, settings):
            saved, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
            shape = {name: saved[name] for name in ("layer", "taps", "width", "gradients")}
            explainer = cls(classifier, **{**shape, "seed": saved["seed"], **settings})
            averaged = any(name.startswith(AVERAGE) for name in state)
            load_trained(explainer.network, state, AVERAGE if averaged else "network.", str(path))
            return explainer


def _over_features(mask: Tensor, layout: Layout, r: Tensor) -> Tensor:
    """A mask of positions (B, 1, h, w) for every element of R; tokens without a position are given
    the mean of the others.
    """
    channels = layout.grid(r).shape[-3]
    grid = mask.expand(-1, channels, -1, -1)
    if layout.kind == "BTC" and layout.prefix:
        mean = mask.mean(dim=(2, 3))[:, None].expand(-1, layout.prefix, channels)
        return layout.ungrid(grid, mean)
    return layout.ungrid(grid)

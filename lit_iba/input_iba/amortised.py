"""Amortised InputIBA: a trained network predicts the prior of any image in one pass, in place of
stages (a) and (b).

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021), section 3.3, fits lambda_G, mu_G and sigma_G for each image; here a
generator network gives them, trained over a data set as amortised_training.py says. What it
predicts is a map by itself, or the prior of stage (c).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier, usual_layer
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution
from lit_iba.iba.bottleneck import information_bits
from lit_iba.input_iba.explainer import InputIBA
from lit_iba.input_iba.generator import InputPrior
from lit_iba.input_iba.settings import InputOutput, flat, settings_from, smooth_of, unit_of
from lit_iba.statistics import INPUT, FeatureStatistics, identity_of
from lit_iba.training.checkpoint import entries_of
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained, single

# The bottleneck's layer and those behind it, which know the class.
DEFAULT_TAPS = {
    "vgg16": ["features.17", "features.24", "features.28", "classifier.6"],
    "resnet18": ["layer2", "layer3", "layer4", "fc"],
    "resnet50": ["layer2", "layer3", "layer4", "fc"],
}
DEFAULT_WIDTHS = (16, 32, 64, 128)
MIN_STD = 0.01  # floor of the images' standard deviation, as elsewhere
LARGEST_LOG_STD = 3.0  # sigma_G within e^-3 and e^3 of that of the images at large
PRIOR_BITS: Literal["prior_bits"] = "prior_bits"


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

    def restored(self, identity: dict[str, Any]) -> FeatureStatistics:
        """What was stored, to float32 rounding; on the CPU."""
        found = FeatureStatistics(self.mean.shape, identity)
        found.count = int(self.count)
        found.mean = self.mean.double().cpu()
        found.sum_of_squares = self.std.double().cpu().square() * max(found.count - 1, 1)
        found.nonzero = (self.active.double().cpu() * found.count).round().long()
        return found


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm (an image's result does not depend on its batch) and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(8, outputs), outputs), nn.ReLU(True))


class PriorGenerator(nn.Module):
    """A U-Net over the image that also reads the classifier's features at its lowest level.

    The image gives the resolution, the features what the classifier sees there: with those, a small
    network is enough.

    Args:
        shapes: Shape of every tap's output for one image, by name.
        layouts: Layout of the same.
        feature_shape: Shape of R at the bottleneck's layer.
        image_shape: (3, H, W) that the images' statistics have.
        widths: Channels at each level; each level has half the size of the one before.

    Raises:
        InputError: A width below one, or none.

    Example:
        >>> from lit_iba.input_iba import AmortisedInputIBA, PriorGenerator
        >>> explainer = AmortisedInputIBA(classifier, "layer2", widths=[4, 8])
        >>> isinstance(explainer.trained, PriorGenerator)
        True
    """

    def __init__(
        self,
        shapes: dict[str, torch.Size],
        layouts: dict[str, Layout],
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        widths: Sequence[int] = DEFAULT_WIDTHS,
    ) -> None:
        super().__init__()
        self.taps, self.widths = tuple(shapes), tuple(widths)
        if not self.widths:
            raise InputError("widths are empty; give the generator at least one level")
        check_counts(**{f"widths[{i}]": width for i, width in enumerate(self.widths)})
        channels = [
            shapes[n][0] if layouts[n].kind in ("BCHW", "BC") else shapes[n][-1] for n in self.taps
        ]
        lowest = self.widths[-1]
        self.colours = colours = image_shape[0]
        self.enter = _block(colours, self.widths[0])
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(self.widths))
        # Standardised over all elements of an image's tap: their scales are far apart.
        self.read = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, c, affine=False), nn.Conv2d(c, lowest, 1))
            for c in channels
        )
        self.lowest = nn.Sequential(_block(lowest, lowest), _block(lowest, lowest))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in reversed(list(pairwise(self.widths))))
        self.write = nn.Conv2d(self.widths[0], colours, 1)
        self.noise = nn.Linear(lowest, 2 * colours)
        with torch.no_grad():  # lambda_G near 1/2, eps_G as the images at large
            self.write.weight.mul_(0.1)
            for parameter in (self.write.bias, self.noise.weight, self.noise.bias):
                parameter.zero_()  # type: ignore[union-attr]
        self.feature_statistics, self.input_statistics = (
            StoredStatistics(feature_shape),
            StoredStatistics(image_shape),
        )

    def set_statistics(self, features: FeatureStatistics, images: FeatureStatistics) -> None:
        """Store the statistics of the bottleneck's layer and of the images."""
        self.feature_statistics.store(features)
        self.input_statistics.store(images)

    def forward(
        self, images: Tensor, taps: dict[str, Tensor], layouts: dict[str, Layout]
    ) -> InputPrior:
        """The prior of images (B, 3, H, W), in float32, from them and the taps' outputs."""
        levels = [self.enter(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for name, read in zip(self.taps, self.read, strict=True):
            tap = read(layouts[name].grid(taps[name]).contiguous())
            if tap.shape[-2:] not in ((1, 1), x.shape[-2:]):
                tap = F.interpolate(tap, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + tap
        x = self.lowest(x)
        # No len(): an export would take the number of images for a constant.
        noise = self.noise(x.mean(dim=(2, 3))).float().view(-1, 2, self.colours, 1, 1)
        mean, log_std = noise.unbind(dim=1)
        for up in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skip], dim=1))
        whole = self.input_statistics
        centre = whole.mean.mean(dim=(1, 2), keepdim=True)
        scale = whole.std.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(MIN_STD)
        bounded = LARGEST_LOG_STD * torch.tanh(log_std / LARGEST_LOG_STD)
        return InputPrior(self.write(x).float(), centre + scale * mean, scale * bounded.exp())


class AmortisedInputIBA(TrainedExplainer):
    """InputIBA with a predicted prior.

    Args:
        classifier: The network to explain.
        layer: Where the feature bottleneck was in training; by default as :class:`InputIBA`.
        taps: Layers that the generator reads; by default the bottleneck's and those behind it.
        widths: The generator's, see :class:`PriorGenerator`.
        output: Of stage (c) of :class:`InputIBA` for the image's target, with this prior; or
            ``"prior_bits"``: what Z_G tells of the image, KL[N(lambda_G I + (1 - lambda_G) mu_G, (1
            - lambda_G)^2 sigma_G^2) || N(mu_G, sigma_G^2)] in bits per pixel, one pass whatever the
            target.
        smooth: Blur of the map, as of :class:`InputIBA`.
        seed: Of stage (c)'s noise, together with each sample's key.
        settings: Any of :class:`InputIBASettings`.

    Raises:
        InputError: Unknown layer or setting.

    Example:
        >>> from lit_iba.input_iba import AmortisedInputIBA
        >>> explainer = AmortisedInputIBA(classifier, "layer2", widths=[4, 8], output="prior_bits")
        >>> explainer.trained.__class__.__name__
        'PriorGenerator'
    """

    name: ClassVar[str] = "amortised_input_iba"
    label: ClassVar[str] = "Amortised InputIBA"
    training = "InputIBATraining"
    config = "configs/train/input_iba_vgg16.yaml"
    outputs = (
        Output(
            "heatmap",
            "bits",
            "Information in bits that each pixel contributes to a noisy image which the "
            "classifier's features cannot tell from the ones that the prediction needs.",
        ),
    )

    def __init__(
        self,
        classifier: FrozenClassifier,
        layer: str | None = None,
        taps: Sequence[str] | None = None,
        widths: Sequence[int] | None = None,
        output: InputOutput | Literal["prior_bits"] = "smoothed_lambda",
        smooth: float | None = None,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        check_literals(AmortisedInputIBA.__init__, locals())
        super().__init__(classifier, seed=seed)
        self.layer, self.output = usual_layer(classifier, layer), output
        self.taps = list(taps or DEFAULT_TAPS.get(classifier.name, [self.layer]))
        drawn: InputOutput = "bits" if output == PRIOR_BITS else output
        self.settings = settings_from("default", settings | {"output": drawn})
        self.asks = output != PRIOR_BITS
        self.unit, self.smooth = unit_of(drawn), smooth_of(drawn, smooth)
        self.observe = classifier.taps(self.taps)
        size = classifier.preprocessing.size
        with torch.no_grad():
            tapped = self.observe(classifier.empty_images())
        shapes = {name: tapped[name].shape[1:] for name in self.taps}
        feature_shape = classifier.feature_shape(self.layer)
        self.generator = PriorGenerator(
            shapes,
            classifier.layouts_of(tapped, size),
            feature_shape,
            (classifier.channels, *size),
            tuple(widths or DEFAULT_WIDTHS),
        ).to(classifier.device)
        self._input_iba: InputIBA | None = None

    @property
    def input_iba(self) -> InputIBA:
        """InputIBA itself, with the statistics that came with training.

        Raises:
            InputError: There are none yet.
        """
        if self._input_iba is None:
            if not int(self.generator.input_statistics.count):
                raise InputError(
                    "this generator has no statistics yet; train it, or load a checkpoint"
                )
            features, images = (
                stored.restored(identity_of(self.classifier, layer, "training"))
                for layer, stored in (
                    (self.layer, self.generator.feature_statistics),
                    (INPUT, self.generator.input_statistics),
                )
            )
            self._input_iba = InputIBA(
                self.classifier, self.layer, features, images, seed=self.seed, **flat(self.settings)
            )
        return self._input_iba

    def prior(self, images: Tensor) -> InputPrior:
        """The predicted prior of images (B, 3, H, W), in one pass."""
        with torch.no_grad():
            taps = self.observe(images)
        size = (images.shape[-2], images.shape[-1])
        layouts = self.classifier.layouts_of(taps, size)
        return self.generator(single(images), {n: single(tap) for n, tap in taps.items()}, layouts)

    def prior_bits(self, images: Tensor) -> Tensor:
        """Information that Z_G keeps of each pixel, bits (B, H, W); this is what is exported."""
        prior = self.prior(images)
        with torch.autocast(images.device.type, enabled=False):  # logarithms need float32
            return information_bits((images.float() - prior.mean) / prior.std, *prior.masks()).sum(
                dim=1
            )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One pass of the generator, and stage (c) unless the prior itself is asked for."""
        input_iba = self.input_iba  # whatever the output: without statistics nothing was trained
        if self.output == PRIOR_BITS:
            with torch.no_grad():
                return Attribution(self.prior_bits(images))
        together, maps = max(1, self.settings.forward_batch_size // self.settings.input.copies), []
        for start in range(0, len(images), together):
            part = slice(start, start + together)
            with torch.no_grad():
                prior = self.prior(images[part])
            found = input_iba.find_mask(images[part], targets[part], generators[part], prior)
            maps.append(input_iba.drawn(found).values)
        return Attribution(torch.cat(maps))

    @property
    def trained(self) -> nn.Module:
        """The generator."""
        return self.generator

    @property
    def record(self) -> dict[str, Any]:
        """Layers, the generator's widths, the output and its blur, the seed, and the settings of
        stage (c).
        """
        settings = {k: v for k, v in flat(self.settings).items() if k != "output"}
        place = {
            "layer": self.layer,
            "taps": list(self.taps),
            "widths": list(self.generator.widths),
        }
        drawn = {"output": self.output, "smooth": self.smooth}
        return place | drawn | {"seed": self.seed, "settings": settings}

    @classmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> AmortisedInputIBA:
        """See the base class."""
        return cls(
            classifier, **{k: v for k, v in record.items() if k != "settings"}, **record["settings"]
        )

    def program_modules(self) -> dict[str, nn.Module]:
        """See the base class."""
        # A graph that ends with the last tap, or a function that runs the whole network.
        trunk = self.observe if isinstance(self.observe, nn.Module) else self.classifier.model
        return {"classifier": trunk, "generator": self.generator}

    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the predicted prior keeps; stage (c) is an optimisation and stays here."""
        return (self.prior_bits(images),)

    @torch.no_grad()
    def program_expected(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return self.program(images)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> AmortisedInputIBA:
        """A trained generator from a checkpoint of ``InputIBATraining``.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: ``output``, ``seed``, or settings of stage (c).

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another
                classifier.
        """
        checkpoint, classifier = cls.read(path, classifier)
        with entries_of(path, settings):
            saved = checkpoint["hyper_parameters"]
            explainer = cls(
                classifier,
                saved["layer"],
                saved["taps"],
                saved["widths"],
                **{**saved["settings"], **settings},
            )
            load_trained(explainer.generator, checkpoint["state_dict"], "generator.", str(path))
            return explainer

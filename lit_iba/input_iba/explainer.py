"""InputIBA: the information that each pixel has to keep, at the input's own resolution.

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021). Three stages: (a) a bottleneck on deep features finds lambda*; (b) a
prior on the input is fitted so that it has the same effect on these features; (c) a bottleneck on
the input keeps the class with the fewest bits beyond that prior. Its mask Lambda is the map.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lit_iba.checks import check_taken
from lit_iba.classifier import FrozenClassifier, usual_layer
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, OnStep, Surroundings
from lit_iba.iba.bottleneck import channels_last, elements, mask_from_logits, mix
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.iba.noise import NoiseModel
from lit_iba.iba.optimise import autocast, optimise_mask
from lit_iba.iba.per_sample import PerSampleIBA
from lit_iba.input_iba.bottleneck import input_information_bits, input_information_nats
from lit_iba.input_iba.generator import InputPrior, fit_prior, starting_logits
from lit_iba.input_iba.settings import InputIBASettings, flat, settings_from, smooth_of, unit_of
from lit_iba.objectives.base import repeat_targets
from lit_iba.randomness import normal_copies
from lit_iba.statistics import INPUT, FeatureStatistics


@dataclass(frozen=True)
class MaskStage:
    """What stage c found for a batch of images, each (B, 3, H, W).

    Args:
        prior_keep: lambda_G.
        keep: Lambda.
        alpha: Logits of Lambda before the blur.
        bits: Information beyond the prior, bits per colour and pixel.
        total_bits: The same as if there were no prior.
    """

    prior_keep: Tensor
    keep: Tensor
    alpha: Tensor
    bits: Tensor
    total_bits: Tensor


@dataclass(frozen=True)
class InputStages:
    """What all stages found for a batch of images.

    Args:
        feature_keep: lambda*, (B, *R).
        feature_nats: Information in the features, nats per element of R (B, *R).
        prior: lambda_G, mu_G and sigma_G.
        mask: Lambda, and what it tells.
    """

    feature_keep: Tensor
    feature_nats: Tensor
    prior: InputPrior
    mask: MaskStage


class InputIBA(Explainer):
    """The InputIBA explainer.

    Args:
        classifier: The network to explain.
        layer: Where the feature bottleneck is; by default :func:`usual_layer`, which is VGG-16's
            conv4_1 (``"features.17"``) as in the paper, and ``"layer2"`` of ResNets.
        statistics: Feature statistics of that layer, or a file of them.
        input_statistics: Statistics of the images themselves (layer ``"input"``), or a file of
            them.
        seed: Seeds the noise, together with each sample's key.
        preset: ``"default"``, or ``"reference"``: what the published code does.
        smooth: Blur of the map, in pixels of a picture whose shorter side is 224; by default 4
            where the map is the mask Lambda, and 0 for the other outputs. 0 gives the mask as the
            paper draws it.
        on_step: Called with stage, steps done and steps to do, for a progress bar.
        settings: Any of :class:`InputIBASettings`.

    Raises:
        InputError: Unknown layer or setting, statistics that belong to something else, or none
            where they are needed.

    Example:
        >>> from lit_iba import InputIBA
        >>> from lit_iba import FeatureStatistics
        >>> pixels = FeatureStatistics.estimate(classifier, "input", images)
        >>> fast = {"gan": "none", "steps": 2, "feature_steps": 2, "copies": 2, "feature_copies": 2}
        >>> explainer = InputIBA(classifier, "layer2", statistics, pixels, **fast)
        >>> heatmap = explainer.attribute(images, targets)
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([2, 64, 64]), '1')
        >>> bits = InputIBA(classifier, "layer2", statistics, pixels, output="bits", **fast)
        >>> bits.attribute(images, targets).unit
        'bits'
    """

    name: ClassVar[str] = "input_iba"
    label: ClassVar[str] = "InputIBA"

    def __init__(
        self,
        classifier: FrozenClassifier,
        layer: str | None = None,
        statistics: FeatureStatistics | str | Path | None = None,
        input_statistics: FeatureStatistics | str | Path | None = None,
        *,
        seed: int = 0,
        preset: str = "default",
        smooth: float | None = None,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.settings = s = settings_from(preset, settings)
        self.on_step = on_step
        self.layer = usual_layer(classifier, layer)
        if statistics is None:
            raise InputError(
                f"input_iba needs feature statistics of layer {self.layer!r}; see"
                " FeatureStatistics.estimate"
            )
        self.feature_iba = PerSampleIBA(
            classifier,
            self.layer,
            statistics,
            preset=s.features.feature_preset,
            **s.feature_changes(),
        )
        self.input_statistics = (
            self._input_statistics(input_statistics) if s.input.input_noise == "estimated" else None
        )
        self.unit, self.smooth = unit_of(s.input.output), smooth_of(s.input.output, smooth)

    def _input_statistics(self, given: FeatureStatistics | str | Path | None) -> NoiseModel:
        if given is None:
            raise InputError(
                "input_iba needs statistics of the images themselves (FeatureStatistics.estimate of"
                " layer 'input'), or the setting input_noise='standard'"
            )
        if not isinstance(given, FeatureStatistics):
            given = FeatureStatistics.load(given, self.classifier, INPUT)
        given.check(self.classifier, INPUT)
        return NoiseModel.from_statistics(given, active_threshold=-1.0)

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> InputIBA:
        """Build from a config: statistics that are not given are estimated once on the run's own
        images.
        """
        settings = dict(settings)
        # Before anything is estimated, which may take minutes.
        names = list(flat(InputIBASettings()))
        check_taken(
            cls.__init__, settings, cls.name, never=["classifier", "on_step"], keywords=names
        )
        own = {name: value for name, value in settings.items() if name in names}
        wanted = settings_from(settings.get("preset", "default"), own)
        settings["layer"] = layer = usual_layer(classifier, settings.get("layer"))
        if surroundings is not None:
            if "statistics" not in settings:
                settings["statistics"] = surroundings.statistics(classifier, layer)
            if wanted.input.input_noise == "estimated" and "input_statistics" not in settings:
                settings["input_statistics"] = surroundings.statistics(classifier, INPUT)
        return cls(classifier, **settings)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Heatmaps of the images; see :meth:`Explainer.attribute`."""
        stages = self.find_stages(images, targets, generators)
        return self.drawn(stages.mask)

    def drawn(self, found: MaskStage) -> Attribution:
        """The map that ``output`` asks for, of stage c's results."""
        output = self.settings.input.output
        if output == "bits":
            return Attribution(found.bits.sum(dim=1))
        if output == "total_bits":
            return Attribution(found.total_bits.sum(dim=1))
        masks = {"smoothed_lambda": found.keep, "prior_mask": found.prior_keep}
        mask = masks[output] if output in masks else torch.sigmoid(found.alpha)
        return Attribution(mask.mean(dim=1))

    def find_stages(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> InputStages:
        """All masks of checked images (B, 3, H, W) for targets (B,); ``generators[i]`` belongs to
        image i.
        """
        # An image's result does not depend on its batch, so that a batch may be taken in parts.
        s = self.settings
        together = max(
            1,
            s.forward_batch_size // max(s.input.copies, s.features.feature_copies, s.prior.samples),
        )
        parts = []
        for start in range(0, len(images), together):
            part = slice(start, start + together)
            parts.append(self._find_part(images[part], targets[part], generators[part]))
        return join(parts)

    def _find_part(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> InputStages:
        # The GAN makes percents of a rounding, and how a sum rounds depends on the size of the
        # batch: up to the prior, each image is alone. What follows enlarges nothing. On a GPU one
        # image leaves most of the device idle (0.6 s per image instead of 0.11 on an H100, VGG-16),
        # so that there the batch stays together, and maps agree as far as roundings let them.
        alone = self.settings.prior.gan != "none" and images.device.type == "cpu"
        together = 1 if alone else len(images)
        noise, keeps, nats, priors = self.input_noise(images), [], [], []
        for start in range(0, len(images), together):
            some = slice(start, start + together)
            masked = self.feature_iba.masked_feature(images[some], targets[some], generators[some])
            self._tell("features", 1, 1)
            keeps.append(masked.keep)
            nats.append(masked.nats)
            priors.append(self.find_prior(images[some], masked, noise, generators[some]))
        prior = join(priors)
        mask = self.find_mask(images, targets, generators, prior)
        return InputStages(torch.cat(keeps), torch.cat(nats), prior, mask)

    def find_mask(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator], prior: InputPrior
    ) -> MaskStage:
        """Stage c, for a prior of every image."""
        noise = self.input_noise(images)
        with torch.no_grad():
            prior_keep, prior_drop = prior.masks()
        alpha = self._optimise(images, targets, generators, noise, prior_keep, prior_drop)
        with torch.no_grad():
            keep, drop = self._mask(alpha)
            r = (images - noise.mean) / noise.std
            bits = input_information_bits(r, keep, drop, prior_drop)
            total = input_information_bits(r, keep, drop, torch.ones_like(prior_drop))
        return MaskStage(prior_keep, keep, alpha, bits, total)

    @torch.no_grad()
    def starting_prior(self, masked: MaskedFeature, noise: NoiseModel) -> InputPrior:
        """Where stage b begins: lambda_G from the information in the features, mu_G and sigma_G of
        the images at large.
        """
        count, s = len(masked.r), self.settings.prior
        return InputPrior(
            starting_logits(masked, noise.mean.shape, s.prior_start),
            noise.mean.mean(dim=(1, 2), keepdim=True).expand(count, -1, -1, -1),
            noise.std.square().mean(dim=(1, 2), keepdim=True).sqrt().expand(count, -1, -1, -1),
            s.prior_smoothing_sigma,
        )

    def find_prior(
        self,
        images: Tensor,
        masked: MaskedFeature,
        noise: NoiseModel,
        generators: list[torch.Generator],
    ) -> InputPrior:
        """Stage b: the prior of every image, from its feature bottleneck."""
        s, start = self.settings, self.starting_prior(masked, noise)
        if s.prior.gan == "none":
            return start
        return fit_prior(
            start,
            images,
            s.prior.neighbourhood * noise.std,
            masked,
            self.features,
            s,
            generators,
            self.on_step,
        )

    def features(self, images: Tensor) -> Tensor:
        """f: feature maps (N, *R) of images (N, 3, H, W), made fast for many passes."""
        with autocast(images.device, self.settings.precision):
            return self.feature_iba.split.folded_head(channels_last(images))[0].to(images.dtype)

    def _mask(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        return mask_from_logits(
            alpha, self.settings.input.smoothing_sigma, Layout("BCHW", *alpha.shape[-2:])
        )

    def _optimise(
        self,
        images: Tensor,
        targets: Tensor,
        generators: list[torch.Generator],
        noise: NoiseModel,
        prior_keep: Tensor,
        prior_drop: Tensor,
    ) -> Tensor:
        """Stage c: alpha (B, 3, H, W) after the last update."""
        s, precision = self.settings.input, self.settings.precision
        network = self.classifier.folded()
        r = (images - noise.mean) / noise.std
        repeated, objective = repeat_targets(targets, s.copies), self.classifier.objective
        unit_noise = images.new_empty(s.copies, *images.shape)

        def draw() -> None:
            normal_copies(generators, s.copies, images.shape[1:], out=unit_noise)

        def loss(alpha: Tensor) -> Tensor:
            keep, drop = self._mask(alpha)
            through = (
                (keep, drop)
                if s.passes == "image"
                else (keep * prior_keep, drop + keep * prior_drop)
            )
            z = mix(images, *through, noise.mean, noise.std, unit_noise)  # (copies, B, 3, H, W)
            with autocast(images.device, precision):
                outputs = network(z.flatten(0, 1))
            asked = objective.loss(outputs.float(), repeated).sum() / s.copies
            nats = input_information_nats(r, keep, drop, prior_drop)
            return asked + s.beta_input * nats.mean(dim=elements(nats)).sum()

        return optimise_mask(
            torch.full_like(images, self.settings.initial_alpha),
            loss,
            draw,
            steps=s.steps,
            learning_rate=self.settings.learning_rate,
            on_step=lambda done: self._tell("input", done, s.steps),
        )

    def input_noise(self, images: Tensor) -> NoiseModel:
        """The noise of the input bottleneck, (3, H, W)."""
        if self.input_statistics is None:
            zero = torch.zeros_like(images[0])
            return NoiseModel(zero, zero + 1, zero + 1, zero)
        layout = Layout("BCHW", images.shape[-2], images.shape[-1])
        self.input_statistics = self.input_statistics.to(
            images.device
        )  # once, not with every batch
        return self.input_statistics.fit_to(images, layout)

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.on_step is not None:
            self.on_step(stage, done, total)


Joined = TypeVar("Joined", InputStages, MaskStage, InputPrior)


def join(parts: list[Joined]) -> Joined:
    """The stages, or the priors, of several batches as those of one."""

    def joined(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        if isinstance(values[0], float):
            return values[0]
        kind = type(values[0])
        return kind(**{f.name: joined([getattr(v, f.name) for v in values]) for f in fields(kind)})

    return joined(parts)

"""Training amortised InputIBA: a generator of priors against one critic for all images.

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021), equation 3, over a data set. The critic is told which image it judges:
the Wasserstein distance between f(Z_G) and Z* is meant image by image, and without being told, any
two sets of images with the same features on the whole would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from lit_iba.checks import check_counts, check_literals
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap
from lit_iba.input_iba.amortised import PRIOR_BITS, AmortisedInputIBA
from lit_iba.input_iba.critic import ConditionalCritic, clip_weights, directions
from lit_iba.input_iba.generator import (
    CriticView,
    InputPrior,
    LatentBottleneck,
    critic_objective,
    prior_features,
)
from lit_iba.randomness import sample_generators
from lit_iba.statistics import INPUT, estimate_layers
from lit_iba.training.frozen import TrainingWithFrozenClassifier

# Settings of InputIBA that say how one image's prior is fitted, or what one critic for all images
# cannot know.
NOT_HERE = (
    "gan",
    "generator_steps",
    "critic_warm_up",
    "critic",
    "critic_learning_rate",
    "mask_learning_rate",
    "noise_learning_rate",
    "step_size",
    "decay",
    "z_star_noise",
    "standardise",
    "output",
    "smooth",
    "prior_smoothing_sigma",
)
_SCORES = ("loss", "start", "lambda_g", "prior_bits")


class Batch(NamedTuple):
    """Images behind their feature bottleneck."""

    images: Tensor  # (B, 3, H, W)
    generators: list[torch.Generator]  # one per image; all that is random comes from them
    latent: LatentBottleneck  # gives Z*
    view: CriticView  # standardises feature maps
    r: Tensor  # R, standardised (B, C, h, w)
    keep: Tensor  # lambda* (B, C, h, w)
    drop: Tensor
    spread: Tensor  # of the local explanation set
    start: InputPrior  # where a fit of each image's own would begin


class InputIBATraining(TrainingWithFrozenClassifier):
    """Trains an :class:`AmortisedInputIBA` for one classifier.

    A batch is ``critic_steps`` updates of the critic, then one of the generator; each counts as a
    global step.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``:
            ``{"model": "vgg16", "weights": "DEFAULT"}``.
        layer: Where the feature bottleneck is; by default as :class:`InputIBA`.
        taps: Layers that the generator reads; by default as :class:`AmortisedInputIBA`.
        widths: Channels at each level of the generator.
        critic_width: Channels of the critic's hidden layers.
        start_batches: In so many batches at first, the generator learns where a fit of each image's
            own would begin (its logits' squared difference from ``prior_start``) and the critic to
            judge it. 0 starts from lambda_G = 1/2.
        settings: Of :class:`InputIBASettings`, those about features, Z*, samples and critic, and
            those of stage (c), which the explainer then has. ``lipschitz`` is ``"clip"`` here
            unless given, as published.
        target: The class whose features the bottleneck keeps: the data set's ``"label"``, or the
            ``"predicted"`` one.
        statistics_images: How many images the statistics are measured over before training.
        seed: Seeds all noise, together with each sample's key.
        optimizer: Called with the generator's parameters; RMSProp with learning rate 5e-5 in the
            paper.
        critic_optimizer: Called with the critic's parameters; likewise.

    Example:
        >>> from lit_iba.input_iba import InputIBATraining
        >>> training = InputIBATraining(
        ...     {"model": "small_cnn", "weights": "random"}, layer="layer2", widths=[4, 8]
        ... )
        >>> training.explainer.unit
        'bits'
    """

    def __init__(
        self,
        classifier: dict[str, Any],
        layer: str | None = None,
        taps: list[str] | None = None,
        widths: list[int] | None = None,
        critic_width: int = 64,
        start_batches: int = 1000,
        settings: dict[str, Any] | None = None,
        target: Literal["label", "predicted"] = "label",
        statistics_images: int = 1000,
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.RMSprop(parameters, lr=5e-5),
        critic_optimizer: OptimizerCallable = lambda parameters: torch.optim.RMSprop(
            parameters, lr=5e-5
        ),
    ) -> None:
        super().__init__(classifier)
        self.automatic_optimization = False
        settings = {"lipschitz": "clip", **(settings or {})}
        check_literals(InputIBATraining.__init__, locals())
        _check(settings, start_batches)
        check_counts(0, seed=seed)
        check_counts(critic_width=critic_width, statistics_images=statistics_images)
        self.explainer = AmortisedInputIBA(
            self.classifier, layer, taps, widths, output=PRIOR_BITS, seed=seed, **settings
        )
        self.settings, self.generator = self.explainer.settings, self.explainer.generator
        shape = (
            self.classifier.layout(self.explainer.layer)
            .grid(self.generator.feature_statistics.mean)
            .shape
        )
        self.critic = ConditionalCritic(shape[0], critic_width)
        self.start_batches, self.target, self.seed = start_batches, target, seed
        self.statistics_images, self.optimizer, self.critic_optimizer = (
            statistics_images,
            optimizer,
            critic_optimizer,
        )
        self.save_hyperparameters(
            {
                "classifier": classifier,
                "layer": self.explainer.layer,
                "taps": self.explainer.taps,
                "widths": list(self.generator.widths),
                "critic_width": critic_width,
                "start_batches": start_batches,
                "settings": settings,
                "target": target,
                "statistics_images": statistics_images,
                "seed": seed,
            }
        )
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Heatmap:
        """What the predicted prior keeps of images (B, 3, H, W), in bits."""
        return self.explainer.attribute(images)

    def _restrict(self, batch: dict[str, Any], draw: int) -> Batch:
        """Stage a of a batch; equal numbers draw equal noise."""
        images, input_iba = self.images_of(batch), self.explainer.input_iba
        if images.is_inference():  # validation, while a mask is to be optimised
            images = images.clone()
        targets = self.targets_of(batch, self.target, lambda: self.classifier(images))
        generators = sample_generators(
            self.seed, [f"{draw}/{key}" for key in batch["key"]], images.device
        )
        masked = input_iba.feature_iba.masked_feature(images, targets, generators)
        latent, view = (
            LatentBottleneck(masked, self.settings.latent, generators),
            CriticView(masked, standardise=True),
        )
        noise, grid = input_iba.input_noise(images), masked.layout.grid
        return Batch(
            images,
            generators,
            latent,
            view,
            view(masked.r),
            grid(latent.keep),
            grid(latent.drop),
            self.settings.prior.neighbourhood * noise.std,
            input_iba.starting_prior(masked, noise),
        )

    def _fakes(self, seen: Batch, prior: InputPrior) -> Tensor:
        """Standardised draws of f(Z_G), (S, B, C, h, w)."""
        features = self.explainer.input_iba.features
        return seen.view(
            prior_features(
                prior, seen.images, seen.spread, features, self.settings.prior, seen.generators
            )
        )

    def training_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Updates of the critic, then one of the generator."""
        weight = batch["weight"]
        with torch.autocast(self.device.type, enabled=False):  # alpha and logarithms need float32
            seen = self._restrict(batch, self.current_epoch)
        prior = self.explainer.prior(seen.images)
        starting = self.global_step // (self.settings.critics.critic_steps + 1) < self.start_batches
        with torch.autocast(self.device.type, enabled=False):
            with torch.set_grad_enabled(not starting):
                fakes = self._fakes(seen, prior)
            self._update_critic(seen, prior, fakes.detach(), weight)
            losses = self._start_gap(seen, prior) if starting else None
            self._update_generator(seen, losses, fakes, weight)
        means = {
            "lambda_g": prior.masks()[0].detach().mean(dim=(1, 2, 3)),
            "start_gap": self._start_gap(seen, prior),
        }
        for name, values in means.items():
            self._log_mean(name, values.detach(), weight)

    def _score(self, seen: Batch, fakes: Tensor) -> Callable[[Tensor], Tensor]:
        """The critic of this batch, from samples (S, B, C, h, w) to scores (S, B)."""
        direction = directions(fakes, seen.keep * seen.r)
        return lambda samples: self.critic(samples, seen.r, seen.keep, direction)

    def _update_critic(self, seen: Batch, prior: InputPrior, fakes: Tensor, weight: Tensor) -> None:
        s, optimizer = self.settings.critics, self.optimizers()[1]  # type: ignore[index]
        for update in range(s.critic_steps):
            if update and not s.reuse_fakes:
                with torch.no_grad():
                    fakes = self._fakes(seen, prior)
            real = seen.view(seen.latent.sample(self.settings.prior.samples))
            losses = critic_objective(self._score(seen, fakes), real, fakes, s, seen.generators)
            optimizer.zero_grad()
            # Divided by the batch's slots, not by the weights' sum: so two processes at batch b
            # equal one at 2b.
            self.manual_backward((losses * weight).mean())
            optimizer.step()
            if s.lipschitz == "clip":
                clip_weights(self.critic, s.clip)

    def _update_generator(
        self, seen: Batch, losses: Tensor | None, fakes: Tensor, weight: Tensor
    ) -> None:
        """A step down ``losses`` (B,), or else up the critic's scores of the fakes."""
        optimizer, score = self.optimizers()[0], self._score(seen, fakes)  # type: ignore[index]
        self.critic.requires_grad_(False)
        found = score(fakes).mean(dim=0)
        with torch.no_grad():
            real = score(seen.view(seen.latent.sample(self.settings.prior.samples))).mean(dim=0)
        losses = -found if losses is None else losses
        optimizer.zero_grad()
        self.manual_backward((losses * weight).mean())
        optimizer.step()
        self.critic.requires_grad_(True)
        self._log_mean("critic_gap", real - found.detach(), weight)
        self._log_mean("generator_loss", losses.detach(), weight)

    @staticmethod
    def _start_gap(seen: Batch, prior: InputPrior) -> Tensor:
        """Mean squared difference of the logits of lambda_G from where a fit of each image's own
        begins, (B,).
        """
        return (prior.logits - seen.start.logits).square().mean(dim=(1, 2, 3))

    def _log_mean(self, name: str, values: Tensor, weight: Tensor) -> None:
        shown = name in ("critic_gap", "start_gap")
        self.log(f"train/{name}", (values * weight).mean(), prog_bar=shown, batch_size=len(weight))

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """``loss``: distance of f(Z_G) from Z*; ``start``: of the prior that a fit would begin
        with; the same draws each time.
        """
        with torch.inference_mode(False), torch.no_grad():
            with torch.autocast(self.device.type, enabled=False):
                seen = self._restrict(batch, 0)
            prior = self.explainer.prior(seen.images)
            with torch.autocast(self.device.type, enabled=False):
                scores = {
                    name: self.distance(seen, p)
                    for name, p in (("loss", prior), ("start", seen.start))
                }
                scores["lambda_g"] = prior.masks()[0].mean(dim=(1, 2, 3))
                scores["prior_bits"] = self.explainer.prior_bits(seen.images).sum(dim=(1, 2))
        self.update_scores(scores, batch["weight"])

    def distance(self, seen: Batch, prior: InputPrior) -> Tensor:
        """How far f(Z_G) is from Z* in mean and standard deviation, element by element, in standard
        deviations of R.

        The root mean square over the elements that count, of both differences: the 2-Wasserstein
        distance of Gaussians without correlations. With S samples it is never below about ``1.2 /
        sqrt(S)`` times the standard deviation of Z*.

        Returns:
            (B,).
        """
        fakes = self._fakes(seen, prior)
        gap = (fakes.mean(dim=0) - seen.keep * seen.r).square() + (
            fakes.std(dim=0) - seen.drop
        ).square()
        counts = (seen.view.layout.grid(seen.view.scale) > 0).float()  # (C, h, w)
        return ((gap * counts).flatten(1).sum(dim=1) / counts.sum()).sqrt()

    def drawings(self, pictures: Tensor) -> list[Tensor]:
        """Beside pictures uint8 (B, 3, H, W): overlay and map of the prior's bits, and lambda_G's
        mean over colours.
        """
        images = self.images_of({"picture": pictures})
        heatmap = self(images).cpu()
        with torch.no_grad():
            keep = self.explainer.prior(images).masks()[0].mean(dim=1, keepdim=True)
        grey = (keep.cpu() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        return [heatmap.overlay(pictures), heatmap.colored(), grey]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The generator's, then the critic's."""
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        return [self.optimizer(trained), self.critic_optimizer(self.critic.parameters())]

    def on_fit_start(self) -> None:
        """Check disk and strategy, and measure the statistics unless a checkpoint brought them."""
        self.check_disk()
        self.check_strategy("critic and generator are updated in turn")
        if not int(self.generator.input_statistics.count):
            self.classifier.to(self.trainer.strategy.root_device)
            self.measure(self.images_to_measure(self.statistics_images), self.data_name)
            rank_zero_info(
                f"statistics measured over {int(self.generator.input_statistics.count)} images"
            )

    def measure(self, batches: Iterator[Tensor], data: str = "") -> None:
        """Measure and keep the statistics of features and images, over all processes' batches (B,
        3, H, W).
        """
        layer = self.explainer.layer
        found = estimate_layers(self.classifier, [layer, INPUT], batches, data=data)
        for statistics in found.values():
            statistics.reduce_across_processes()
        self.generator.set_statistics(found[layer], found[INPUT])


def _check(settings: dict[str, Any], start_batches: int) -> None:
    for name in NOT_HERE:
        if name in settings:
            raise InputError(
                f"the setting {name} is of a fit to one image; leave it out where a generator is"
                " trained"
            )
    check_counts(0, start_batches=start_batches)

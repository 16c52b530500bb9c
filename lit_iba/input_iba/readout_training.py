"""Training InputIBA in one pass: both bottlenecks of Zhang et al. (NeurIPS 2021) over a data set,
with one network that gives the masks of every image.

Stage (a): the features' mask keeps the target at the price of its information (equation 6 of IBA).
What it tells is the prior lambda_G, as at the start of stage (b). Stage (c): the pixels' mask keeps
the target at the price of what it tells beyond that prior (proposition 3). The published fit of the
prior by a GAN has no part here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.heatmap import Heatmap
from lit_iba.iba.bottleneck import channels_last, elements, mix
from lit_iba.iba.noise import noise_like
from lit_iba.input_iba.bottleneck import input_information_nats
from lit_iba.input_iba.mask_network import MaskNetwork
from lit_iba.input_iba.readout import ReadoutInputIBA
from lit_iba.randomness import content_keys, normal, sample_generators
from lit_iba.statistics import INPUT, estimate_layers
from lit_iba.training.averaged import AveragedTraining
from lit_iba.training.feature_pyramid import WIDTH

_SCORES = ("loss", "feature_loss", "feature_nats", "input_loss", "input_nats", "kept")


class InputIBATraining(AveragedTraining):
    """Trains a :class:`ReadoutInputIBA` for one classifier.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``:
            ``{"model": "resnet18", "weights": "DEFAULT"}``.
        layer: Where the feature bottleneck is; by default as :class:`InputIBA`.
        taps: Layers that the network reads; by default as :class:`ReadoutInputIBA`.
        width: Channels of the network on its coarse grids.
        gradients: Whether it reads the gradients of the target's score, too.
        beta_feat: Weight of the information in the features, a mean over their elements.
        beta_input: Weight of the information at the pixels beyond the prior, a mean over colours
            and pixels. 20 in a fit to one image; here that leaves empty masks.
        beta_warmup_steps: Over which both weights rise from 0. Without, the prices empty the masks
            before the network knows what it needs.
        target: What is to be kept: the data set's ``"label"``, or what is ``"predicted"``.
        statistics_images: How many images the statistics are measured over before training.
        warmup_steps: Steps over which the learning rate rises to its value.
        schedule: The learning rate afterwards: ``"constant"``, or ``"cosine"``, down to 0 at the
            end of the run.
        ema_decay: Of the exponential moving average of the network that is validated, explained
            with and exported; None takes the trained one itself.
        seed: Seeds all noise, together with each image's key.
        optimizer: Called with the network's parameters.

    Raises:
        InputError: A setting that does not exist or is out of range.

    Example:
        >>> from lit_iba.input_iba import InputIBATraining
        >>> training = InputIBATraining({"model": "small_cnn", "weights": "random"}, "layer2")
        >>> training.explainer.unit
        '1'
    """

    def __init__(
        self,
        classifier: dict[str, Any],
        layer: str | None = None,
        taps: list[str] | None = None,
        width: int = WIDTH,
        gradients: bool = True,
        beta_feat: float = 10.0,
        beta_input: float = 10.0,
        beta_warmup_steps: int = 0,
        target: Literal["label", "predicted"] = "predicted",
        statistics_images: int = 1000,
        warmup_steps: int = 0,
        schedule: Literal["constant", "cosine"] = "constant",
        ema_decay: float | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    ) -> None:
        super().__init__(classifier)
        check_literals(InputIBATraining.__init__, locals())
        check_numbers(0, beta_feat=beta_feat, beta_input=beta_input)
        check_counts(0, beta_warmup_steps=beta_warmup_steps, seed=seed)
        check_counts(statistics_images=statistics_images)
        self.explainer = ReadoutInputIBA(self.classifier, layer, taps, width, gradients, seed=seed)
        self.split = self.classifier.split(self.explainer.layer)
        with torch.no_grad():  # whether anything passes the bottleneck's layer by
            self.crosses = bool(self.split.head(self.classifier.empty_images())[1])
        self.network = self.explainer.network
        self.beta_feat, self.beta_input = beta_feat, beta_input
        self.beta_warmup_steps, self.target, self.seed = beta_warmup_steps, target, seed
        self.statistics_images = statistics_images
        averaged = self.train_network(self.network, optimizer, warmup_steps, schedule, ema_decay)
        self.explainer.network = cast(MaskNetwork, averaged)
        self.save_hyperparameters(
            {
                "classifier": classifier,
                "layer": self.explainer.layer,
                "taps": self.explainer.taps,
                "width": width,
                "gradients": gradients,
                "beta_feat": beta_feat,
                "beta_input": beta_input,
                "beta_warmup_steps": beta_warmup_steps,
                "target": target,
                "statistics_images": statistics_images,
                "warmup_steps": warmup_steps,
                "schedule": schedule,
                "ema_decay": ema_decay,
                "seed": seed,
            }
        )
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Heatmap:
        """Masks of images (B, 3, H, W)."""
        return self.explainer.attribute(images)

    def _step(self, images: Tensor, batch: dict[str, Any], draw: int) -> dict[str, Tensor]:
        """Both bottlenecks' losses (nats) and information (nats per element), each (B,); equal
        numbers draw equal noise.
        """
        explainer = self.explainer
        network = self.network if self.training else explainer.network
        objective, folded = self.classifier.objective, self.classifier.folded()
        asked = self.target == "label"
        targets = self.targets_of(batch, "label", lambda: images) if asked else None
        observed = explainer.observe(images, targets)
        if targets is None:
            with torch.no_grad():
                outputs = folded(images) if observed.outputs is None else observed.outputs
                targets = objective.predicted(outputs)
        found = explainer.predict(images, observed, network)
        generators = sample_generators(
            self.seed, [f"{draw}/{key}" for key in batch["key"]], images.device
        )
        with torch.no_grad():
            _, carried = self.split.folded_head(images) if self.crosses else (None, ())
        unit_noise = noise_like(found.r, generators)
        z = found.noise.restrict(found.r, found.feature_keep, found.feature_drop, unit_noise)
        seen = self.split.folded_tail(channels_last(z), carried).float()
        noise, unit_noise = explainer.input_noise(images), normal(generators, *images.shape[1:])
        z = mix(images, found.keep, found.drop, noise.mean, noise.std, unit_noise)
        kept = folded(channels_last(z)).float()
        with torch.autocast(images.device.type, enabled=False):
            nats = input_information_nats(
                (images - noise.mean) / noise.std,
                found.keep,
                found.drop,
                torch.sigmoid(-found.prior_logits.detach()),
            )
            return {
                "feature_loss": objective.loss(seen, targets),
                "feature_nats": found.feature_nats.mean(dim=elements(found.feature_nats)),
                "input_loss": objective.loss(kept, targets),
                "input_nats": nats.mean(dim=elements(nats)),
                "kept": found.keep.detach().mean(dim=elements(found.keep)),
            }

    def _loss(self, step: dict[str, Tensor], grown: float) -> Tensor:
        """Of each image, (B,)."""
        prices = self.beta_feat * step["feature_nats"] + self.beta_input * step["input_nats"]
        return step["feature_loss"] + step["input_loss"] + grown * prices

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step of both bottlenecks on a batch."""
        weight, images = batch["weight"], self.without_empty_slots(batch)
        step = self._step(images, batch, self.current_epoch)
        grown = min(1.0, (self.global_step + 1) / max(self.beta_warmup_steps, 1))
        # Divided by the batch's slots, not by the weights' sum: so two processes at batch b equal
        # one at 2b.
        means = {
            name: (values * weight).mean()
            for name, values in (step | {"loss": self._loss(step, grown)}).items()
        }
        for name, value in means.items():
            shown = name in ("loss", "kept")
            self.log(f"train/{name}", value, prog_bar=shown, batch_size=len(weight))
        return means["loss"]

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """The same with the full prices, and the same draws each time."""
        step = self._step(self.images_of(batch), batch, 0)
        self.update_scores(step | {"loss": self._loss(step, 1.0)}, batch["weight"])

    def drawings(self, pictures: Tensor) -> list[Tensor]:
        """Beside pictures uint8 (B, 3, H, W): overlay and map, Lambda, lambda_G, and one draw of
        what the classifier sees through Lambda.
        """
        images = self.images_of({"picture": pictures})
        heatmap = self(images).cpu()
        with torch.no_grad():
            found = self.explainer.predict(images)
            noise = self.explainer.input_noise(images)
            generators = sample_generators(self.seed, content_keys(images), images.device)
            unit_noise = normal(generators, *images.shape[1:])
            z = mix(images, found.keep, found.drop, noise.mean, noise.std, unit_noise)
        masks = (found.keep, torch.sigmoid(found.prior_logits))
        grey = [(mask.cpu() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1) for mask in masks]
        seen = self.classifier.preprocessing.denormalize(z.cpu())
        return [heatmap.overlay(pictures), heatmap.colored(), *grey, seen]

    def on_fit_start(self) -> None:
        """Check the disk, and measure the statistics unless a checkpoint brought them."""
        self.check_disk()
        if int(self.network.input_noise.count):
            return
        self.classifier.to(self.trainer.strategy.root_device)
        self.measure(self.images_to_measure(self.statistics_images), self.data_name)
        rank_zero_info(f"statistics measured over {int(self.network.input_noise.count)} images")

    def measure(self, batches: Iterator[Tensor], data: str = "") -> None:
        """Measure and keep the statistics of features and images, over all processes' batches (B,
        3, H, W).
        """
        layer = self.explainer.layer
        found = estimate_layers(self.classifier, [layer, INPUT], batches, data=data)
        for statistics in found.values():
            statistics.reduce_across_processes()
        for network in {self.network, self.explainer.network}:
            network.set_statistics(found[layer], found[INPUT])

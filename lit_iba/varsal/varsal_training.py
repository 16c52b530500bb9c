"""Training VarSal's encoder: the classifier must still say the same when only the pixels that the map ranks highest are kept.

"Variational saliency maps for explaining model's behavior" (submission to ICLR 2021), equation 5 and appendix C.
Two passes of the frozen classifier a step: the image's, without gradients, and the perturbed image's, back to its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from lit_iba.baselines.gradient import RandomMap
from lit_iba.errors import InputError, unknown_name
from lit_iba.heatmap import Heatmap
from lit_iba.metrics.low_k_perturbation import LowKPerturbation
from lit_iba.randomness import content_keys, sample_generators
from lit_iba.training.frozen import TrainingWithFrozenClassifier
from lit_iba.varsal.baselines import draw_baselines, perturb
from lit_iba.varsal.encoder import PAPER_CHANNELS
from lit_iba.varsal.explainer import VarSal, check_map, sample_map
from lit_iba.varsal.prior import SoftTVPrior, StandardNormalPrior
from lit_iba.varsal.soft_top_k import soft_top_k, standardize

PRIORS: dict[str, Any] = {"soft_tv": SoftTVPrior, "standard_normal": StandardNormalPrior}
KEPT = (0.1, 0.9)  # k ~ U(hw/10, 9hw/10)
_SCORES = ("loss", "prediction_kl", "prior_kl", "deviation", "low_k_kl", "low_k_kl_random")


class Perturbed(NamedTuple):
    """A batch with what its maps rank low taken away."""

    mean: Tensor  # (B, H, W)
    log_variance: Tensor  # (B, H, W)
    mask: Tensor  # (B, H, W), in [0, 1], with sum k
    images: Tensor  # (B, 3, H, W)


class VarSalTraining(TrainingWithFrozenClassifier):
    """Trains a :class:`VarSal` for one classifier.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``: ``{"model": "vgg16", "weights": "DEFAULT"}``.
        channels: Output channels of the encoder's convolutions but the last; the paper's by default.
        initial_deviation: Standard deviations that training starts near. The paper names none; with 1, a new convolution's, the
            samples' noise hides the mean for as long as it takes the deviations to fall.
        beta: Weight of KL(q || prior), a sum over pixels in nats; None takes the paper's 1 / (10 h w).
        prior: ``"soft_tv"``: neighbouring pixels are correlated; or ``"standard_normal"``, the ablation of figures 3 and 5.
        temperature: Of the differentiable top-k, of scores with standard deviation 1; the smaller, the harder the mask.
        baselines: What may take a pixel's place, drawn for each image and step: of ``"blur"``, ``"noise"``, ``"mean"``.
        map: What the mask is made of: a ``"sampled"`` map, or the ``"mean"``.
        low_k: Percentages of pixels removed in the validation's low-k perturbation.
        seed: Seeds samples, k and baselines, together with each image's key.
        optimizer: Called with the encoder's parameters; Adam as in appendix C.
    """

    headline: ClassVar[str] = "low_k_kl"

    def __init__(
        self,
        classifier: dict[str, Any],
        channels: list[int] | None = None,
        initial_deviation: float = 1.0,
        beta: float | None = None,
        prior: str = "soft_tv",
        temperature: float = 0.1,
        baselines: Sequence[str] = ("blur", "noise", "mean"),
        map: str = "sampled",
        low_k: Sequence[float] = (10, 30, 50, 70, 90),
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(
            parameters, lr=1e-4, weight_decay=5e-4, betas=(0.9, 0.99)
        ),
    ) -> None:
        super().__init__(classifier)
        if prior not in PRIORS:
            raise unknown_name("prior of varsal", str(prior), PRIORS)
        if (beta is not None and beta < 0) or temperature <= 0:
            raise InputError(
                f"beta is {beta} and temperature {temperature}; beta must be at least 0, temperature above 0"
            )
        side = self.classifier.preprocessing.crop
        self.beta = 1 / (10 * side**2) if beta is None else beta
        self.prior, self.map = PRIORS[prior](side, side), check_map(map)
        self.temperature, self.baselines, self.seed, self.optimizer = temperature, tuple(baselines), seed, optimizer
        self.explainer = VarSal(self.classifier, channels or PAPER_CHANNELS, seed=seed)
        self.encoder = self.explainer.encoder
        self.encoder.start_near(initial_deviation)
        self.low_k, self.random = LowKPerturbation(low_k), RandomMap(self.classifier, seed=seed)
        self.save_hyperparameters(
            {"classifier": classifier, "channels": list(self.encoder.channels), "initial_deviation": initial_deviation,
             "beta": beta, "prior": prior,
             "temperature": temperature, "baselines": list(baselines), "map": map, "low_k": list(low_k), "seed": seed}
        )  # fmt: skip
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Heatmap:
        """Posterior means, with deviations as uncertainty, of images (B, 3, H, W)."""
        return self.explainer.attribute(images, target=0)

    def _perturb(self, images: Tensor, keys: Sequence[str]) -> Perturbed:
        """Draw a map, a number k and a baseline for every image (B, 3, H, W); equal keys draw equal numbers."""
        mean, log_variance = self.encoder(images)
        generators = sample_generators(self.seed, keys, images.device)
        with torch.autocast(images.device.type, enabled=False):  # ranks and logarithms need float32
            scores = mean
            if self.map == "sampled":
                scores = sample_map(mean, (0.5 * log_variance).exp(), generators)
            uniform = torch.cat([torch.rand(1, generator=g, device=images.device) for g in generators])
            k = (KEPT[0] + (KEPT[1] - KEPT[0]) * uniform) * mean[0].numel()
            mask = soft_top_k(standardize(scores.flatten(1)), k, temperature=self.temperature).view_as(mean)
            baselines = draw_baselines(images, generators, self.baselines)
            return Perturbed(mean, log_variance, mask, perturb(images, mask, baselines))

    def _terms(self, images: Tensor, keys: Sequence[str]) -> tuple[Perturbed, dict[str, Tensor]]:
        """KL(P(x) || P(perturbed x)) and KL(q || prior) in nats, and their weighted sum, each (B,)."""
        classifier = self.classifier.folded()
        with torch.no_grad():
            reference = classifier(images).float().log_softmax(dim=1)
        perturbed = self._perturb(images, keys)
        found = classifier(perturbed.images).float().log_softmax(dim=1)
        with torch.autocast(images.device.type, enabled=False):
            prediction = (reference.exp() * (reference - found)).sum(dim=1)
            prior = self.prior.kl(perturbed.mean, perturbed.log_variance)
        return perturbed, {
            "loss": prediction + self.beta * prior, "prediction_kl": prediction, "prior_kl": prior,
            "deviation": (0.5 * perturbed.log_variance.detach()).exp().mean(dim=(1, 2)),
        }  # fmt: skip

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step of equation 5 on a batch."""
        weight, images = batch["weight"], self.images_of(batch)
        # Empty slots would enter batch norm's statistics: a picture of the batch stands in for them, with weight 0.
        slots = torch.arange(len(weight), device=weight.device)
        images = images[torch.where(weight > 0, slots, (weight > 0).int().argmax())]
        _, terms = self._terms(images, [f"{self.current_epoch}/{key}" for key in batch["key"]])
        # Divided by the batch's slots, not by the weights' sum: so two processes at batch b equal one at 2b.
        means = {name: (values * weight).mean() for name, values in terms.items()}
        for name, value in means.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "prediction_kl"), batch_size=len(weight))
        return means["loss"]

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """The loss, and low-k perturbation of the mean beside that of a random map; the same draws at every validation."""
        images = self.images_of(batch)
        perturbed, terms = self._terms(images, [f"0/{key}" for key in batch["key"]])
        control = self.random.attribute(images, target=0, keys=batch["key"]).values
        terms |= {"low_k_kl": self._low_k(images, perturbed.mean), "low_k_kl_random": self._low_k(images, control)}
        self.update_scores(terms, batch["weight"])

    def _low_k(self, images: Tensor, maps: Tensor) -> Tensor:
        """KL divergence (nats) without the least salient pixels, meaned over ``low_k``: (B,)."""
        targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)  # the measure needs none
        rows = self.low_k.score_rows(self.classifier, images, targets, maps, None, None)
        return self.low_k.scores(rows)["score"].to(images.device)

    def drawings(self, pictures: Tensor) -> list[Tensor]:
        """Beside pictures uint8 (B, 3, H, W): mean, deviation, mask and perturbed picture, as of a training step."""
        images = self.images_of({"picture": pictures})
        heatmap = self(images).cpu()
        _, _, mask, perturbed = self._perturb(images, content_keys(images))
        grey = (mask.cpu()[:, None] * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        seen = self.classifier.preprocessing.denormalize(perturbed.cpu())
        return [heatmap.colored(), heatmap.deviation().colored(), grey, seen]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the encoder alone."""
        return self.optimizer(self.encoder.parameters())

    def on_fit_start(self) -> None:
        """Check the disk."""
        self.check_disk()

"""Training VarSal's encoder: the classifier must still say the same when only the pixels that the
map ranks highest are kept.

"Variational saliency maps for explaining model's behavior" (submission to ICLR 2021), equation 5
and appendix C. Two passes of the frozen classifier a step: the image's, without gradients, and the
perturbed image's, back to its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from lit_iba.baselines.gradient import RandomMap
from lit_iba.checks import check_counts, check_literals
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap
from lit_iba.metrics.low_k_perturbation import LowKPerturbation
from lit_iba.randomness import content_keys, sample_generators
from lit_iba.training.averaged import AveragedTraining
from lit_iba.training.feature_pyramid import WIDTH
from lit_iba.varsal.baselines import DEFAULT_STRENGTHS, BaselineStrengths, draw_baselines, perturb
from lit_iba.varsal.encoder import PAPER_CHANNELS
from lit_iba.varsal.explainer import Encoder, VarSal, sample_map
from lit_iba.varsal.prior import SoftTVPrior, StandardNormalPrior
from lit_iba.varsal.soft_top_k import soft_top_k, standardize
from lit_iba.varsal.strata import golden_uniform

PRIORS: dict[str, Any] = {"soft_tv": SoftTVPrior, "standard_normal": StandardNormalPrior}
KEPT = (0.1, 0.9)  # k ~ U(hw/10, 9hw/10)
_SCORES = ("loss", "prediction_kl", "prior_kl", "deviation", "low_k_kl", "low_k_kl_random")


class Perturbed(NamedTuple):
    """A batch with what its maps rank low taken away."""

    mean: Tensor  # (B, H, W)
    log_variance: Tensor  # (B, H, W)
    mask: Tensor  # (B, H, W), in [0, 1], with sum k
    images: Tensor  # (B, 3, H, W)


class VarSalTraining(AveragedTraining):
    """Trains a :class:`VarSal` for one classifier.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``:
            ``{"model": "vgg16", "weights": "DEFAULT"}``.
        channels: Output channels of the paper's encoder's convolutions but the last; the paper's by
            default.
        encoder: ``"paper"``, which sees the picture alone, or ``"readout"``, which reads the
            classifier's features and is ours.
        taps: Layers that the readout encoder reads; None takes the last stage of each resolution.
        width: Channels of the readout encoder on its coarse grids.
        initial_deviation: Standard deviations that training starts near. The paper names none; with
            1, a new convolution's, the samples' noise hides the mean for as long as it takes the
            deviations to fall.
        beta: Weight of KL(q || prior), a sum over pixels in nats; None takes the paper's 1 / (10 h
            w). The equations 7 and 12 as printed leave out the divergence's 1/2: 1 / (5 h w) gives
            the weight that the print amounts to.
        prior: ``"soft_tv"``: neighbouring pixels are correlated; or ``"standard_normal"``, the
            ablation of figures 3 and 5.
        alpha: Correlation of neighbours under ``"soft_tv"``; 0.4 in the paper (section 4.1).
        temperature: Of the differentiable top-k, of scores with standard deviation 1; the smaller,
            the harder the mask.
        baselines: What may take a pixel's place, drawn for each image and step: of ``"blur"``,
            ``"noise"``, ``"mean"``.
        strengths: How strong these are; the paper names no numbers (its footnotes 1 to 3), the
            defaults are ours.
        k: How the number of pixels kept is drawn, an image and step, from the paper's U(hw/10,
            9hw/10): ``"uniform"``, from the image's own key; or ``"stratified"``, evenly over
            consecutive samples (see :func:`golden_uniform`). Validation always draws from the keys.
        map: What the mask is made of: a ``"sampled"`` map, or the ``"mean"``.
        low_k: Percentages of pixels removed in the validation's low-k perturbation.
        warmup_steps: Steps over which the learning rate rises to its value; the paper names none.
        schedule: The learning rate afterwards: ``"constant"``, or ``"cosine"``, down to 0 at the
            end of the run.
        ema_decay: Of the exponential moving average of the encoder that is validated, explained
            with and exported; None takes the trained one itself, as the paper.
        seed: Seeds samples, k and baselines, together with each image's key.
        optimizer: Called with the encoder's parameters; Adam as in appendix C.

    Raises:
        InputError: A setting that does not exist or is out of range.

    Example:
        >>> from lit_iba.varsal import VarSalTraining
        >>> training = VarSalTraining({"model": "small_cnn", "weights": "random"}, channels=[8, 8])
        >>> training(images).uncertainty.shape
        torch.Size([2, 64, 64])
    """

    headline: ClassVar[str] = "low_k_kl"

    def __init__(
        self,
        classifier: dict[str, Any],
        channels: list[int] | None = None,
        encoder: Literal["paper", "readout"] = "paper",
        taps: list[str] | None = None,
        width: int = WIDTH,
        initial_deviation: float = 1.0,
        beta: float | None = None,
        prior: Literal["soft_tv", "standard_normal"] = "soft_tv",
        alpha: float = 0.4,
        temperature: float = 0.1,
        baselines: Sequence[str] = ("blur", "noise", "mean"),
        strengths: BaselineStrengths = DEFAULT_STRENGTHS,
        k: Literal["uniform", "stratified"] = "uniform",
        map: Literal["mean", "sampled"] = "sampled",
        low_k: Sequence[float] = (10, 30, 50, 70, 90),
        warmup_steps: int = 0,
        schedule: Literal["constant", "cosine"] = "constant",
        ema_decay: float | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(
            parameters, lr=1e-4, weight_decay=5e-4, betas=(0.9, 0.99)
        ),
    ) -> None:
        super().__init__(classifier)
        check_literals(VarSalTraining.__init__, locals())
        check_counts(0, seed=seed)
        if (beta is not None and beta < 0) or temperature <= 0:
            raise InputError(
                f"beta is {beta} and temperature {temperature}; beta must be at least 0,"
                " temperature above 0"
            )
        rows, columns = self.classifier.preprocessing.size
        self.beta = 1 / (10 * rows * columns) if beta is None else beta
        smooth = {"alpha": alpha} if prior == "soft_tv" else {}
        self.prior = PRIORS[prior](rows, columns, **smooth)
        self.map, self.k, self.strengths = map, k, strengths
        self.temperature, self.baselines, self.seed = temperature, tuple(baselines), seed
        self.processes = 1
        self.explainer = VarSal(
            self.classifier,
            channels or PAPER_CHANNELS,
            encoder=encoder,
            taps=taps,
            width=width,
            seed=seed,
        )
        self.encoder = self.explainer.encoder
        self.encoder.start_near(initial_deviation)
        averaged = self.train_network(self.encoder, optimizer, warmup_steps, schedule, ema_decay)
        self.explainer.encoder = cast(Encoder, averaged)
        self.low_k, self.random = LowKPerturbation(low_k), RandomMap(self.classifier, seed=seed)
        self.save_hyperparameters(
            {
                "classifier": classifier,
                **self.explainer.shape,
                "initial_deviation": initial_deviation,
                "beta": beta,
                "prior": prior,
                "alpha": alpha,
                "temperature": temperature,
                "baselines": list(baselines),
                "strengths": asdict(strengths),
                "k": k,
                "map": map,
                "low_k": list(low_k),
                "warmup_steps": warmup_steps,
                "schedule": schedule,
                "ema_decay": ema_decay,
                "seed": seed,
            }
        )
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Heatmap:
        """Posterior means, with deviations as uncertainty, of images (B, 3, H, W)."""
        return self.explainer.attribute(images)

    def _perturb(
        self,
        images: Tensor,
        keys: Sequence[str],
        features: Mapping[str, Tensor] | None = None,
        uniform: Tensor | None = None,
    ) -> Perturbed:
        """Draw a map, a number k and a baseline for every image; equal keys draw equal numbers.

        Args:
            images: (B, 3, H, W).
            keys: Of the draws.
            features: What the encoder reads, where it is known already.
            uniform: Numbers in [0, 1), (B,), that k follows from; by default drawn with the keys.
        """
        encoder = (
            self.encoder if self.training else self.explainer.encoder
        )  # the average, if there is one
        mean, log_variance = encoder(
            images, self.explainer.features(images) if features is None else features
        )
        generators = sample_generators(self.seed, keys, images.device)
        with torch.autocast(images.device.type, enabled=False):  # ranks and logarithms need float32
            scores = mean
            if self.map == "sampled":
                scores = sample_map(mean, (0.5 * log_variance).exp(), generators)
            if uniform is None:
                uniform = torch.cat(
                    [
                        torch.rand(1, generator=g, device=images.device, dtype=torch.float32)
                        for g in generators
                    ]
                )
            k = (KEPT[0] + (KEPT[1] - KEPT[0]) * uniform) * mean[0].numel()
            mask = soft_top_k(
                standardize(scores.flatten(1)), k, temperature=self.temperature
            ).view_as(mean)
            baselines = draw_baselines(images, generators, self.baselines, self.strengths)
            return Perturbed(mean, log_variance, mask, perturb(images, mask, baselines))

    def _terms(
        self, images: Tensor, keys: Sequence[str], uniform: Tensor | None = None
    ) -> tuple[Perturbed, dict[str, Tensor]]:
        """KL(P(x) || P(perturbed x)) and KL(q || prior) in nats, and their weighted sum, each
        (B,).
        """
        logits, features = self.explainer.observe(images)
        objective = self.classifier.objective
        reference = objective.reference(logits.float())
        perturbed = self._perturb(images, keys, features, uniform)
        found = self.classifier.folded()(perturbed.images).float()
        with torch.autocast(images.device.type, enabled=False):
            prediction = objective.divergence(found, reference)
            prior = self.prior.kl(perturbed.mean, perturbed.log_variance)
        return perturbed, {
            "loss": prediction + self.beta * prior,
            "prediction_kl": prediction,
            "prior_kl": prior,
            "deviation": (0.5 * perturbed.log_variance.detach()).exp().mean(dim=(1, 2)),
        }

    def _stratified(self, count: int, batch_index: int, device: torch.device) -> Tensor:
        """The numbers that k follows from, (count,), for this process's part of a step; processes
        take turns in the sequence.
        """
        (epoch,) = sample_generators(self.seed, [f"k/{self.current_epoch}"], torch.device("cpu"))
        first = (batch_index * self.processes + self.global_rank) * count
        return golden_uniform(
            first, count, float(torch.rand(1, generator=epoch, dtype=torch.float32)), device
        )

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step of equation 5 on a batch."""
        weight, images = batch["weight"], self.without_empty_slots(batch)
        uniform = (
            self._stratified(len(weight), batch_index, images.device)
            if self.k == "stratified"
            else None
        )
        _, terms = self._terms(
            images, [f"{self.current_epoch}/{key}" for key in batch["key"]], uniform
        )
        # Divided by the batch's slots, not by the weights' sum: so two processes at batch b equal
        # one at 2b.
        means = {name: (values * weight).mean() for name, values in terms.items()}
        for name, value in means.items():
            self.log(
                f"train/{name}",
                value,
                prog_bar=name in ("loss", "prediction_kl"),
                batch_size=len(weight),
            )
        return means["loss"]

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """The loss, and low-k perturbation of the mean beside that of a random map; the same draws
        at every validation.
        """
        images = self.images_of(batch)
        perturbed, terms = self._terms(images, [f"0/{key}" for key in batch["key"]])
        control = self.random.attribute(images, keys=batch["key"]).values
        targets = self.classifier.targets(images)
        terms |= {
            "low_k_kl": self._low_k(images, targets, perturbed.mean),
            "low_k_kl_random": self._low_k(images, targets, control),
        }
        self.update_scores(terms, batch["weight"])

    def _low_k(self, images: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        """KL divergence (nats) without the least salient pixels, averaged over ``low_k``: (B,)."""
        rows = self.low_k.judge(self.classifier, images, targets, maps)
        return self.low_k.scores(rows)["score"].to(images.device)

    def drawings(self, pictures: Tensor) -> list[Tensor]:
        """Beside pictures uint8 (B, 3, H, W): mean, deviation, mask and perturbed picture, as of a
        training step.
        """
        images = self.images_of({"picture": pictures})
        heatmap = self(images).cpu()
        _, _, mask, perturbed = self._perturb(images, content_keys(images))
        grey = (mask.cpu()[:, None] * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        seen = self.classifier.preprocessing.denormalize(perturbed.cpu())
        return [heatmap.colored(), heatmap.deviation().colored(), grey, seen]

    def on_fit_start(self) -> None:
        """Check the disk, and count the processes."""
        self.check_disk()
        self.processes = self.trainer.world_size

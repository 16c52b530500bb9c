"""Training the Readout bottleneck: cross-entropy through the restricted features plus beta times
the information.

IBA (Schulz et al., ICLR 2020), section 3.3 and table 3. One frozen pass collects taps and R; the
second pass, with gradients, runs only the layers behind the bottleneck.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.heatmap import Heatmap
from lit_iba.iba.bottleneck import NATS_PER_BIT, channels_last, elements
from lit_iba.iba.noise import noise_like
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.objectives import Classification
from lit_iba.randomness import sample_generators
from lit_iba.statistics import estimate_layers
from lit_iba.training.frozen import TrainingWithFrozenClassifier


class ReadoutTraining(TrainingWithFrozenClassifier):
    """Trains a :class:`ReadoutIBA` for one classifier.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``:
            ``{"model": "resnet50", "weights": "DEFAULT"}``.
        layer: Where the bottleneck is; by default the paper's choice for this network.
        taps: Layers that are read; by default the paper's.
        beta: Weight of the information (mean over elements), the paper's "beta = 10/k".
        beta_warmup_steps: Steps over which beta grows linearly to its value, so that the network
            learns what matters before it is asked to leave out the rest; 0 in the paper.
        readout: Any of ``ReadoutSettings``, such as ``{"hidden": [64, 64]}``.
        preset: ``"default"``, ``"reference"`` or ``"reference_vgg16"``.
        target: What the restricted features must still give: the data set's ``"label"``, or the
            ``"predicted"`` class.
        statistics_images: How many images the feature statistics are measured over before training.
        seed: Seeds the noise, together with each sample's key.
        optimizer: Called with the trainable parameters; Adam with learning rate 1e-5 in the paper.

    Example:
        >>> from lit_iba.iba import ReadoutTraining
        >>> training = ReadoutTraining(
        ...     {"model": "small_cnn", "weights": "random"}, layer="layer1", taps=["layer3"]
        ... )
        >>> training.explainer.unit
        'bits'
    """

    def __init__(
        self,
        classifier: dict[str, Any],
        layer: str | None = None,
        taps: list[str] | None = None,
        beta: float = 10.0,
        beta_warmup_steps: int = 0,
        readout: dict[str, Any] | None = None,
        preset: str = "default",
        target: Literal["label", "predicted"] = "label",
        statistics_images: int = 1000,
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-5),
    ) -> None:
        super().__init__(classifier)
        check_literals(ReadoutTraining.__init__, locals())
        check_numbers(0, beta=beta)
        check_counts(0, beta_warmup_steps=beta_warmup_steps, seed=seed)
        check_counts(statistics_images=statistics_images)
        readout = dict(readout or {})
        self.explainer = ReadoutIBA(
            self.classifier, layer, taps, seed=seed, preset=preset, **readout
        )
        self.network = self.explainer.network
        self.beta, self.target, self.seed = beta, target, seed
        self.beta_warmup_steps = beta_warmup_steps
        self.statistics_images, self.optimizer = statistics_images, optimizer
        layer, taps = (
            self.explainer.layer,
            self.explainer.taps,
        )  # as chosen, not as asked for: they rebuild the explainer
        self.save_hyperparameters(
            {
                "classifier": classifier,
                "layer": layer,
                "taps": taps,
                "beta": beta,
                "beta_warmup_steps": beta_warmup_steps,
                "readout": readout,
                "preset": preset,
                "target": target,
                "statistics_images": statistics_images,
                "seed": seed,
            }
        )
        # What is kept small, and what shows whether it is.
        classes = isinstance(self.classifier.objective, Classification)
        self.asked, self.kept = (
            ("cross_entropy", "accuracy_top1") if classes else ("objective_loss", "probability")
        )
        names = ("loss", self.asked, "information_bits", self.kept)
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in names})

    def forward(self, images: Tensor) -> Heatmap:
        """Heatmaps, in bits, of images (B, 3, H, W)."""
        return self.explainer.attribute(images)

    def _kept(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Hits, or for other objectives than classes the probability, (B,)."""
        objective = self.classifier.objective
        if isinstance(objective, Classification):
            return (objective.predicted(outputs) == targets).float()
        return objective.probability(outputs, targets)

    def _step(self, batch: dict[str, Any], draw: int) -> dict[str, Tensor]:
        """The objective's loss (nats), mean information (nats per element), bits, and hits or
        probability, each (B,).
        """
        images = self.images_of(batch)
        explainer = self.explainer
        with torch.no_grad():
            r, carried, taps = explainer.split.folded_observe(images)
            r = channels_last(
                r
            )  # elementwise work wants one order of memory, and convolutions want this one
        layouts = explainer.layouts(r, taps, (images.shape[-2], images.shape[-1]))
        keep, drop, nats, noise = explainer.bottleneck(r, taps, layouts)
        generators = sample_generators(
            self.seed, [f"{draw}/{key}" for key in batch["key"]], r.device
        )
        z = noise.channels_last().restrict(r.float(), keep, drop, noise_like(r, generators))
        z = z.clamp_min(0) if self.network.settings.relu_clamp else z
        outputs = explainer.split.folded_tail(z, carried).float()
        targets = self.targets_of(
            batch, self.target, lambda: explainer.split.folded_tail(r, carried)
        )
        objective = self.classifier.objective
        return {
            self.asked: objective.loss(outputs, targets),
            "information_nats_per_element": nats.mean(dim=elements(nats)),
            "information_bits": nats.detach().sum(dim=elements(nats)) / NATS_PER_BIT,
            self.kept: self._kept(outputs, targets),
        }

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step of equation 6 on a batch."""
        weight = batch["weight"]
        step = self._step(batch, self.current_epoch)
        grown = min(1.0, (self.global_step + 1) / max(self.beta_warmup_steps, 1))
        losses = step[self.asked] + grown * self.beta * step["information_nats_per_element"]
        # Divided by the batch's slots, not by the weights' sum: so two processes at batch b equal
        # one at 2b.
        loss = (losses * weight).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(weight))
        self.log(f"train/{self.asked}", (step[self.asked] * weight).mean(), batch_size=len(weight))
        self.log(
            "train/information_bits",
            (step["information_bits"] * weight).mean(),
            prog_bar=True,
            batch_size=len(weight),
        )
        self.log(f"train/{self.kept}", (step[self.kept] * weight).mean(), batch_size=len(weight))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Scores of the restricted classifier, weighted by validity so that padding does not
        count.
        """
        step = self._step(batch, 0)
        step["loss"] = step[self.asked] + self.beta * step["information_nats_per_element"]
        self.update_scores(step, batch["weight"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the readout network alone."""
        return self.optimizer(p for p in self.parameters() if p.requires_grad)

    def on_fit_start(self) -> None:
        """Check the disk, and measure the feature statistics unless a checkpoint brought them."""
        self.check_disk()
        if int(self.network.images_measured):
            return
        self.classifier.to(self.trainer.strategy.root_device)
        statistics = estimate_layers(
            self.classifier,
            {*self.explainer.taps, self.explainer.layer},
            self.images_to_measure(self.statistics_images),
            data=self.data_name,
        )
        for layer in sorted(statistics):
            statistics[layer].reduce_across_processes()
        self.network.set_statistics(statistics)
        rank_zero_info(
            f"feature statistics measured over {int(self.network.images_measured)} images"
        )

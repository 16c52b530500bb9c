"""Training the masking network of real-time image saliency: first the class embedding, then the
decoder.

Dabkowski and Gal, "Real Time Image Saliency for Black Box Classifiers" (NIPS 2017), section 4. One
frozen pass collects the features; in the second phase two more images, what the mask keeps and what
it removes, run through the frozen classifier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lit_iba.baselines.masking import RealTimeSaliency, at_size, class_weights
from lit_iba.baselines.masking_objective import (
    PRESETS,
    ObjectiveSettings,
    ask,
    draw,
    mask_losses,
    mix,
)
from lit_iba.checks import check_counts, check_literals, check_taken
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap
from lit_iba.randomness import sample_generators
from lit_iba.training.frozen import TrainingWithFrozenClassifier

TERMS = ("area", "smoothness", "preserver", "destroyer")
_SCORES = ("loss", *TERMS, "embedding_loss", "embedding_accuracy")


class MaskingTraining(TrainingWithFrozenClassifier):
    """Trains a :class:`RealTimeSaliency` for one classifier.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``:
            ``{"model": "resnet50", "weights": "DEFAULT"}``.
        taps: Layers that are read, from the first to the deepest; by default as in
            :class:`RealTimeSaliency`.
        masking: Any of ``MaskingSettings``, such as ``{"widths": [32, 16]}``.
        preset: Objective: ``"default"`` (the paper's terms with weights of our own) or
            ``"reference"`` (the authors' code's).
        objective: Any of ``ObjectiveSettings``, in place of the preset's.
        embedding: Where the class embedding comes from: ``"trained"`` in the first phase, as
            published, or the ``"classifier"``'s own last layer (see :func:`class_weights`), which
            needs no first phase.
        embedding_steps: Steps of the first phase, in which only the class embedding is trained, to
            tell whether the image shows the class asked for; the decoder is trained in the steps
            after them. 8,500 of 128 images in the authors' code, then 3,000 of 64.
        embedding_fake_probability: Share of images that ask for a fake class in the first phase.
        decay_steps: After so many steps of a phase, the learning rate falls to a tenth; 0 for
            never.
        target: The images' classes: the data set's ``"label"``, or the ``"predicted"`` class.
        seed: Seeds fake classes and alternative images, together with each sample's key.
        optimizer: Called with the trainable parameters; Adam with learning rate 1e-3 and weight
            decay 1e-4 in the code.

    Example:
        >>> from lit_iba.baselines import MaskingTraining
        >>> training = MaskingTraining(
        ...     {"model": "small_cnn", "weights": "random"}, taps=["layer1", "layer2", "layer3"]
        ... )
        >>> training(images).values.shape
        torch.Size([2, 64, 64])
    """

    def __init__(
        self,
        classifier: dict[str, Any],
        taps: list[str] | None = None,
        masking: dict[str, Any] | None = None,
        preset: str = "default",
        objective: dict[str, Any] | None = None,
        embedding: Literal["trained", "classifier"] = "trained",
        embedding_steps: int = 8500,
        embedding_fake_probability: float = 0.5,
        decay_steps: int = 4000,
        target: Literal["label", "predicted"] = "label",
        seed: int = 0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(
            parameters, lr=1e-3, weight_decay=1e-4
        ),
    ) -> None:
        super().__init__(classifier)
        check_literals(MaskingTraining.__init__, locals())
        check_counts(0, seed=seed)
        if min(embedding_steps, decay_steps) < 0 or not 0 <= embedding_fake_probability < 1:
            raise InputError(
                f"embedding_steps {embedding_steps}, decay_steps {decay_steps} and "
                f"embedding_fake_probability {embedding_fake_probability} must be 0 or more, and "
                "the last below 1"
            )
        masking, self.objective = dict(masking or {}), _objective(preset, objective or {})
        self.explainer = RealTimeSaliency(self.classifier, taps, seed=seed, **masking)
        self.network = self.explainer.network
        if embedding == "classifier":
            if embedding_steps:
                raise InputError(
                    f"embedding is classifier and embedding_steps {embedding_steps}; what is given"
                    " is not trained: set embedding_steps to 0"
                )
            weights = class_weights(self.classifier, self.network.embedding.embedding_dim)
            self.network.embedding.weight.data.copy_(weights)
        self.embedding_steps, self.embedding_fake_probability = (
            embedding_steps,
            embedding_fake_probability,
        )
        self.decay_steps, self.target, self.seed, self.optimizer = (
            decay_steps,
            target,
            seed,
            optimizer,
        )
        self.save_hyperparameters(
            {
                "classifier": classifier,
                "taps": self.explainer.taps,
                "masking": masking,
                "preset": preset,
                "objective": dict(objective or {}),
                "embedding": embedding,
                "embedding_steps": embedding_steps,
                "embedding_fake_probability": embedding_fake_probability,
                "decay_steps": decay_steps,
                "target": target,
                "seed": seed,
            }
        )
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Heatmap:
        """Masks of the predicted classes of images (B, 3, H, W)."""
        return self.explainer.attribute(images)

    def _observe(self, batch: dict[str, Any], number: int) -> _Observed:
        """The frozen pass; equal numbers draw equal random numbers."""
        images, split = self.images_of(batch), self.explainer.split
        with torch.no_grad():
            deepest, carried, taps = split.observe(images)
            predicted = self.target == "predicted"
            labels = split.tail(deepest, carried).argmax(dim=1) if predicted else None
        if labels is None:
            labels = self.targets_of(batch, "label", lambda: images)
        generators = sample_generators(
            self.seed, [f"{number}/{key}" for key in batch["key"]], images.device
        )
        return _Observed(
            images,
            labels,
            taps,
            self.classifier.layouts_of(taps, _size(images)),
            generators,
        )

    def _embedding_step(self, seen: _Observed) -> dict[str, Tensor]:
        """Cross-entropy (nats) of "the image shows the class asked for", and hits, each (B,)."""
        uniform = torch.stack(
            [
                torch.rand(2, generator=g, device=g.device, dtype=torch.float32)
                for g in seen.generators
            ]
        )
        asked, real = ask(
            seen.labels, self.classifier.num_classes, self.embedding_fake_probability, uniform
        )
        evidence = self.network.evidence(seen.taps, seen.layouts, asked).float().mean(dim=(1, 2))
        return {
            "embedding_loss": F.binary_cross_entropy_with_logits(
                evidence, real.float(), reduction="none"
            ),
            "embedding_accuracy": ((evidence > 0) == real).float(),
        }

    def _decoder_step(self, seen: _Observed) -> dict[str, Tensor]:
        """The objective's terms and their sum, each (B,)."""
        draws = draw(
            seen.images, seen.labels, self.classifier.num_classes, self.objective, seen.generators
        )
        masks = self.network(seen.taps, seen.layouts, draws.classes)  # (B, h, w)
        large = at_size(masks, _size(seen.images))
        both = torch.cat([mix(draws.images, draws.alternatives, m) for m in (large, 1 - large)])
        kept, removed = self.classifier(both).float().chunk(2)
        terms = mask_losses(masks, kept, removed, seen.labels, draws.real, self.objective)
        return terms | {"loss": torch.stack(list(terms.values())).sum(dim=0)}

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step of the phase that the step's number says."""
        weight, first = batch["weight"], self.global_step < self.embedding_steps
        self.network.embedding.requires_grad_(first)
        seen = self._observe(batch, self.current_epoch)
        step = self._embedding_step(seen) if first else self._decoder_step(seen)
        # Divided by the batch's slots, not by the weights' sum: so two processes at batch b equal
        # one at 2b.
        means = {name: (values * weight).mean() for name, values in step.items()}
        loss = means["embedding_loss" if first else "loss"]
        for name, value in (means | {"loss": loss}).items():
            self.log(
                f"train/{name}", value, prog_bar=name in ("loss", "area"), batch_size=len(weight)
            )
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Both phases' scores, weighted by validity so that padding does not count; ``loss`` is
        always the decoder's.
        """
        seen = self._observe(batch, 0)
        step = self._embedding_step(seen) | self._decoder_step(seen)
        self.update_scores(step, batch["weight"])

    def configure_optimizers(self) -> Any:
        """Adam over the masking network; it leaves parameters alone that have no gradient."""
        optimizer = self.optimizer(self.network.parameters())

        def factor(step: int) -> float:
            in_phase = step if step < self.embedding_steps else step - self.embedding_steps
            return 0.1 ** (in_phase // self.decay_steps) if self.decay_steps else 1.0

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Check the disk, and that several processes can train half of the network at a time."""
        self.check_disk()
        self.check_strategy("each phase trains a part of the masking network")


@dataclass(frozen=True)
class _Observed:
    """A batch after the frozen pass: images, their classes (B,), the taps with their layouts, and a
    generator each.
    """

    images: Tensor
    labels: Tensor
    taps: dict[str, Tensor]
    layouts: dict[str, Layout]
    generators: list[torch.Generator]


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _objective(preset: str, settings: dict[str, Any]) -> ObjectiveSettings:
    if preset not in PRESETS:
        raise InputError(
            f"preset {preset!r} of MaskingTraining is unknown; it must be one of "
            f"{', '.join(PRESETS)}"
        )
    check_taken(ObjectiveSettings, settings, "the objective of MaskingTraining")
    return replace(PRESETS[preset], **settings)

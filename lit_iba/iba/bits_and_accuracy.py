"""Bits and accuracy: how much information a bottleneck lets pass, and how well the classifier does
with it.

IBA (Schulz et al., ICLR 2020), appendix F, table 4. A series over beta is a series of explainers,
each under a name of its own. The table's "initial" column (alpha = 5) is Per-Sample IBA with
``steps: 1, read_after: T-1``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.iba.bottleneck import NATS_PER_BIT, elements
from lit_iba.iba.masked_feature import MaskedFeature, MasksFeatures
from lit_iba.metrics.base import HeatmapMetric, Result, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.objectives.classes import needs_classes
from lit_iba.randomness import content_keys, sample_generators


def share_in_top(logits: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether the target is among the k largest logits, (B, K) and (B,) to float (B,); k is at most
    K.
    """
    highest = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (highest == targets[:, None]).any(dim=1).float()


def nats_as_printed(masked: MaskedFeature) -> Tensor:
    """Information per element, (B,), by the formula that table 4 was made with: ln(1 - lambda)
    where the variance is due.

    The authors' code before the camera-ready paper took 1 - lambda for the variance of Z, which is
    (1 - lambda)^2. At alpha = 5 its value is 2.5 for standardised features, as table 4 prints;
    equation 5 gives 5.0.
    """
    mean = masked.keep * (masked.r - masked.noise.mean) / masked.noise.std
    nats = 0.5 * (mean.square() + masked.drop - masked.drop.log() - 1) * masked.noise.active
    return nats.mean(dim=elements(nats))


class BitsAndAccuracy(HeatmapMetric):
    """Information per element of the feature map, and top-1 and top-5 accuracy of the target, under
    the bottleneck.

    Args:
        samples: Draws of Z an image.
        seed: Of the draws, together with each sample's key; they are independent of those that the
            mask was optimised with.

    Raises:
        InputError: The explainer has no bottleneck behind a layer.

    Example:
        >>> from lit_iba import PerSampleIBA
        >>> from lit_iba.iba import BitsAndAccuracy
        >>> from lit_iba.metrics import Subject
        >>> settings = {"layer": "layer2", "statistics": statistics, "steps": 2, "copies": 2}
        >>> explainer = PerSampleIBA(classifier, **settings)
        >>> metric, heatmap = BitsAndAccuracy(samples=2), explainer.attribute(images, targets)
        >>> subject = Subject.named(explainer, "per_sample_iba", settings)
        >>> metric.update(classifier, images, targets, heatmap.values, subject=subject)
        >>> metric.compute().n
        2
    """

    name = "bits_and_accuracy"
    label = "Bits and accuracy"
    needs_subject = True
    better = "lower"
    scalars = (
        "bits",
        "total_bits",
        "nats_as_printed",
        "accuracy_top1",
        "accuracy_top5",
        "original_top1",
        "original_top5",
    )

    def __init__(self, samples: int = 10, seed: int = 0) -> None:
        check_counts(samples=samples)
        super().__init__({"samples": samples, "seed": seed})
        self.samples, self.seed = samples, seed

    @property
    def definition(self) -> str:
        return (
            "Information that passes the bottleneck, L_I / k: bits per element of the feature map,"
            f" mean over its k elements; beside it the share of {self.samples} draws of Z (seed"
            f" {self.seed}) for which the target is the classifier's first choice (top-1) or among"
            " its first five (top-5), the same without a bottleneck (original), and nats an"
            " element by the formula behind the printed table 4 (1 - lambda for the variance of Z)"
        )

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Bits and accuracies, each (B,)."""
        assert judged.subject is not None  # update() checks it
        explainer, images, targets = judged.subject.explainer, judged.images, judged.targets
        if not isinstance(explainer, MasksFeatures):
            raise InputError(
                "bits_and_accuracy needs an explainer with a bottleneck behind a layer, such as"
                f" per_sample_iba; {type(explainer).__name__} has none, leave it out"
            )
        needs_classes(classifier.objective, "bits_and_accuracy", "degradation or insertion")
        keys = content_keys(images) if judged.keys is None else judged.keys
        # The very numbers that the heatmap was made with, so that lambda is the one that the
        # heatmap shows.
        masked = explainer.masked_feature(
            images, targets, sample_generators(explainer.seed, keys, images.device)
        )
        generators = sample_generators(
            self.seed, [f"bits_and_accuracy/{key}" for key in keys], images.device
        )
        draws = [masked.logits(generators).float() for _ in range(self.samples)]
        with torch.no_grad():
            original = explainer.classifier(images).float()
        return {
            "bits": masked.nats.mean(dim=elements(masked.nats)) / NATS_PER_BIT,
            "total_bits": masked.nats.sum(dim=elements(masked.nats)) / NATS_PER_BIT,
            "nats_as_printed": nats_as_printed(masked),
            "accuracy_top1": (
                torch.stack([share_in_top(logits, targets, 1) for logits in draws]).mean(dim=0)
            ),
            "accuracy_top5": (
                torch.stack([share_in_top(logits, targets, 5) for logits in draws]).mean(dim=0)
            ),
            "original_top1": share_in_top(original, targets, 1),
            "original_top5": share_in_top(original, targets, 5),
        }

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: bits per element, and the rest."""
        return {
            "score": rows["bits"],
            **{name: rows[name] for name in self.scalars if name != "bits"},
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Means over images."""
        if not len(rows.get("bits", ())):
            return Result(math.nan, math.nan, 0)
        scores = self.scores(rows)
        score, error = mean_and_error(scores.pop("score"))
        extra = {name: float(mean_and_error(values)[0]) for name, values in scores.items()}
        return Result(float(score), float(error), len(rows["bits"]), extra)

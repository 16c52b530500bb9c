"""Low-k perturbation: does the classifier still say the same when the least salient pixels are
gone?

VarSal (submission to ICLR 2021), section 4.4 and figure 5a: KL(P(x) || P(x_k)), where the k % least
salient pixels of x_k are zero. The random control of the figure is the explainer ``random``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import Ties, in_double, removal_curves, removal_ranks, tie_order

# Beyond a half, what is left of most pictures is told by its being in one piece.
HALF, UP_TO_HALF = 50, "up_to_50_percent"


def low_k_divergences(
    classifier: FrozenClassifier,
    images: Tensor,
    reference: Tensor,
    maps: Tensor,
    percentages: Sequence[float],
    forward_batch_size: int,
    tie_keys: Sequence[str] | None = None,
) -> Tensor:
    """KL divergence from the prediction without the k % least salient pixels of each of an image's
    maps.

    Args:
        classifier: The frozen classifier.
        images: Normalised (B, 3, H, W).
        reference: What the classifier's objective has to know of the originals (B, ...), see
            :meth:`Objective.reference`: log-probabilities for classes.
        maps: D of each image, (B, D, H, W).
        percentages: The K values of k.
        forward_batch_size: Images per forward pass, across images, maps and k alike.
        tie_keys: Names of the images, from which the order of equal pixels follows; None for
            reading order.

    Returns:
        Nats, float32 (B, D, K).
    """
    values = maps.flatten(2)
    gone = (torch.tensor(percentages, dtype=torch.float64) / 100 * values.shape[2]).round().long()
    every = None if tie_keys is None else [key for key in tie_keys for _ in range(values.shape[1])]
    ranks = removal_ranks(values.flatten(0, 1), False, every).view_as(values)

    def divergence(outputs: Tensor, some: Tensor) -> Tensor:
        found = classifier.objective.divergence(in_double(outputs), in_double(some))
        return found.clamp_min(0)

    return removal_curves(
        classifier,
        images,
        reference,
        torch.zeros_like(images[:, :, :1, :1]),
        ranks,
        gone,
        forward_batch_size=forward_batch_size,
        score=divergence,
    )


class LowKPerturbation(HeatmapMetric):
    """KL divergence from the prediction without the k % least salient pixels, averaged over k;
    lower is better.

    Args:
        percentages: The k, in percent of the pixels.
        forward_batch_size: Images per forward pass.
        ties: Which of equally salient pixels go first: in ``"reading_order"``, which makes a
            constant map a ramp, of which one whole piece is left; or in an order that is
            ``"random"``, which makes it a random map.
        seed: Of the random order, together with the sample's key.

    Raises:
        InputError: A percentage outside [0, 100], or not in increasing order.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> from lit_iba.metrics import LowKPerturbation
        >>> metric, explainer = LowKPerturbation(percentages=(20, 50)), Saliency(classifier)
        >>> metric.update(classifier, images, targets, explainer.attribute(images, targets).values)
        >>> metric.compute().score > 0
        True
    """

    name = "low_k_perturbation"
    label = "Low-k perturbation"
    better = "lower"
    row_curves = ("kl",)

    def __init__(
        self,
        percentages: Sequence[float] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        forward_batch_size: int = 16,
        ties: Ties = "reading_order",
        seed: int = 0,
    ) -> None:
        check_literals(LowKPerturbation.__init__, locals())
        check_counts(forward_batch_size=forward_batch_size)
        check_counts(0, seed=seed)
        percentages = list(percentages)
        if (
            not percentages
            or not all(0 <= k <= 100 for k in percentages)
            or sorted(set(percentages)) != percentages
        ):
            raise InputError(
                f"percentages are {percentages!r}; give increasing numbers from 0 to 100"
            )
        chosen = {} if ties == "reading_order" else {"ties": ties, "seed": seed}
        plain = {"percentages": percentages, "forward_batch_size": forward_batch_size}
        super().__init__(plain | chosen)
        self.percentages, self.forward_batch_size = percentages, forward_batch_size
        self.ties, self.seed = ties, seed

    @property
    def definition(self) -> str:
        return (
            f"{self.objective.divergence_is} for the image and for the image whose k % pixels of"
            f" least attribution, equal ones in {tie_order(self.ties, self.seed)}, are zero"
            " after normalisation (the data set's mean colour); mean over k in"
            f" {self.percentages} %"
        )

    @property
    def shared_key(self) -> Hashable:
        return "reference"

    @torch.inference_mode()
    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor:
        """What the objective has to know of the originals, (B, ...)."""
        network = classifier.folded()
        parts = [
            classifier.objective.reference(in_double(network(part)))
            for part in images.split(self.forward_batch_size)
        ]
        return torch.cat(parts).float().to(images.device)

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """KL divergence at each k, (B, K)."""
        kl = low_k_divergences(
            classifier,
            judged.images,
            judged.needed("shared"),
            judged.heatmaps[:, None],
            self.percentages,
            self.forward_batch_size,
            judged.tie_keys(self.ties, self.seed),
        )
        return {"kl": kl[:, 0]}

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: the mean over k, and over those up to 50 % where there are others."""
        kl, low = in_double(rows["kl"]), [k <= HALF for k in self.percentages]
        half = (
            {} if all(low) or not any(low) else {UP_TO_HALF: kl[:, torch.tensor(low)].mean(dim=1)}
        )
        return {"score": kl.mean(dim=1), **half}

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean over k and images, and the curve over k."""
        if not len(rows["kl"]):
            return Result(float("nan"), float("nan"), 0)
        scores = self.scores(rows)
        score, error = mean_and_error(scores.pop("score"))
        return Result(
            score=float(score),
            standard_error=float(error),
            n=len(rows["kl"]),
            extra={name: float(values.mean()) for name, values in scores.items()},
            curves={"kl": curve(torch.tensor(self.percentages, dtype=torch.float64), rows["kl"])},
            x_label="least salient pixels removed, %",
            y_label="KL divergence from the original's prediction, nats",
        )

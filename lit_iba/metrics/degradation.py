"""Image degradation: how much longer the classifier holds out when the least relevant tiles go
first.

Schulz et al., "Restricting the Flow" (ICLR 2020), section 4.6, equation 9, figures 7, 11 and 12,
table 1. Tiles are removed in the order of the attribution inside them, most relevant first (MoRF)
and least relevant first (LeRF); the score is the integral between the two curves.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import (
    Ties,
    end_points,
    in_double,
    removal_curves,
    removal_ranks,
    tie_order,
    tile_sums,
)

Baseline = Literal["zero", "mean_of_image"]
BASELINES: dict[Baseline, str] = {
    "zero": "0 after normalisation (the data set's mean colour)",
    "mean_of_image": "the image's own mean colour",
}

T1 = {"target": "the target's mean", "top1": "the mean of the highest probability"}
ERRORS = 2  # t1 must be above b by so many standard errors of their difference
ROUNDING = 1e-5  # and by so much: ten times what float32 leaves of a difference of probabilities


def both_orders(sums: Tensor, tie_keys: Sequence[str] | None = None) -> Tensor:
    """When each tile goes, most and least relevant first: (B, tiles) to int32 (B, 2, tiles).

    Equal tiles go in the same order in both directions, reading order or one that follows from the
    image's key, so that a heatmap without any order scores exactly zero.
    """
    return torch.stack([removal_ranks(sums, most, tie_keys) for most in (True, False)], dim=1)


def curve_steps(tiles: int, points: int | None, device: torch.device | None = None) -> Tensor:
    """How many tiles are gone at each point of the curve, int64 (K,): from 0 to all, as evenly as
    whole tiles allow.
    """
    wanted = tiles + 1 if points is None else min(points, tiles + 1)
    return torch.linspace(0, tiles, wanted, dtype=torch.float64).round().long().unique().to(device)


def _scale(drops: Tensor) -> float:
    """t1 - b from what each image loses, (N,); NaN where it is not above 0 by more than chance.

    Below 0 it would turn every score round, and about 0 it makes them arbitrarily large: a quotient
    whose denominator is not told from 0 has no bounded interval (Fieller 1954). Of one image alone
    only the rounding is known.
    """
    mean, error = (float(found) for found in mean_and_error(drops))
    least = max(ROUNDING, 0.0 if math.isnan(error) else ERRORS * error)
    return mean if mean > least else math.nan


class Degradation(HeatmapMetric):
    """Integral between the LeRF and the MoRF curve over the fraction of the picture degraded.

    Args:
        tile: Side of a tile in pixels; the paper has 8 and 14. Tiles at the right and bottom edge
            are smaller where the picture is no multiple of it.
        points: Points of the curve, both ends included; None takes every tile. The authors' code
            has 100.
        baseline: ``"zero"``, or ``"mean_of_image"`` as in the authors' code.
        t1: What the scaled curves are 1 at: the mean probability of the ``"target"``, with which
            they begin at 1, or of the ``"top1"`` class, the highest one, as equation 9 says.
        forward_batch_size: Images per forward pass.
        ties: Which of equally relevant tiles go first: in ``"reading_order"``, or in an order that
            is ``"random"``, the same in both directions.
        seed: Of the random order, together with the sample's key.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> from lit_iba.metrics import Degradation
        >>> metric, explainer = Degradation(tile=16, points=5), Saliency(classifier)
        >>> metric.update(classifier, images, targets, explainer.attribute(images, targets).values)
        >>> result = metric.compute()
        >>> result.n, sorted(result.curves)
        (2, ['lerf', 'morf'])
    """

    name = "degradation"
    label = "Degradation"
    lengths = ("tile",)
    scalars = ("tiles", "top1")  # top1: highest probability of any class on the original
    row_curves = ("morf", "lerf")  # probability of the target at each point of the curve
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "reference": {"points": 100, "baseline": "mean_of_image", "t1": "top1"}
    }

    def __init__(
        self,
        tile: int = 8,
        points: int | None = None,
        baseline: Baseline = "zero",
        t1: Literal["target", "top1"] = "target",
        forward_batch_size: int = 16,
        ties: Ties = "reading_order",
        seed: int = 0,
    ) -> None:
        check_counts(tile=tile, forward_batch_size=forward_batch_size)
        check_counts(0, seed=seed)
        if points is not None and (not isinstance(points, int) or points < 2):
            raise InputError(
                f"points is {points!r}; a curve has at least 2 (both its ends), or None for every"
                " tile"
            )
        check_literals(Degradation.__init__, locals())
        settings = {
            "tile": tile,
            "points": points,
            "baseline": baseline,
            "t1": t1,
            "forward_batch_size": forward_batch_size,
        }
        chosen = {} if ties == "reading_order" else {"ties": ties, "seed": seed}
        super().__init__(settings | chosen)
        self.ties, self.seed = ties, seed
        self.tile, self.points, self.baseline, self.t1 = tile, points, baseline, t1
        self.forward_batch_size = forward_batch_size

    @property
    def definition(self) -> str:
        points = "every tile" if self.points is None else f"{self.points} evenly spaced points"
        return (
            f"Integral of LeRF minus MoRF over the fraction of tiles removed (trapezoid, {points});"
            f" tiles of {self.tile}x{self.tile} pixels (smaller at the right and bottom edge),"
            " ranked by the sum of the attribution inside, equal ones in"
            f" {tie_order(self.ties, self.seed)}, replaced by {BASELINES[self.baseline]};"
            f" {self.objective.probability_is}, scaled by (p - b) / (t1 - b) with t1"
            f" {T1[self.t1]} on originals and b the target's mean on fully degraded images, both"
            " over the data set and taken as given in the standard error; no number where t1 is not"
            f" above b by {ERRORS} standard errors of the difference and by {ROUNDING:g}"
        )

    def fill(self, images: Tensor) -> Tensor:
        """What removed tiles become: (1, C, 1, 1), or (B, C, 1, 1) for images (B, C, H, W)."""
        if self.baseline == "mean_of_image":
            return images.mean(dim=(2, 3), keepdim=True)
        return torch.zeros_like(images[:1, :, :1, :1])

    @property
    def shared_key(self) -> Hashable:
        return "end_points", self.baseline, "given"

    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor:
        """Target, its probability on the original and on the fully degraded image, which are the
        ends of both curves, and the highest probability on the original, see :func:`end_points`.
        """
        return end_points(classifier, images, targets, self.fill(images), self.forward_batch_size)

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Probability of the target along both curves, (B, K)."""
        images, ends = judged.images, judged.needed("shared")
        sums = tile_sums(judged.heatmaps, self.tile)
        ranks = both_orders(sums, judged.tie_keys(self.ties, self.seed))
        tiles = ranks.shape[2]
        inner = removal_curves(
            classifier,
            images,
            judged.targets,
            self.fill(images),
            ranks,
            curve_steps(tiles, self.points)[1:-1],
            tile=self.tile,
            forward_batch_size=self.forward_batch_size,
        )
        first, last = (ends[:, None, end, None].to(inner).expand(-1, 2, -1) for end in (-3, -2))
        curves = torch.cat([first, inner, last], dim=2)  # (B, 2, K)
        count = torch.full((len(images),), tiles, device=images.device)
        return {"morf": curves[:, 0], "lerf": curves[:, 1], "tiles": count, "top1": ends[:, -1]}

    def _scaled(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, float, float]:
        """Fractions (K,), scaled MoRF and LeRF (N, K), t1 and b: equation 9."""
        morf, lerf = in_double(rows["morf"]), in_double(rows["lerf"])
        sizes = rows["tiles"].unique().tolist()
        if len(sizes) != 1:
            raise InputError(
                f"pictures of {sizes} tiles cannot share one degradation curve; give pictures of"
                " one size"
            )
        fractions = curve_steps(int(sizes[0]), self.points, morf.device).double() / sizes[0]
        whole = morf[:, 0] if self.t1 == "target" else in_double(rows["top1"])
        t1, b = float(whole.mean()), float(morf[:, -1].mean())
        scale = _scale(whole - morf[:, -1])
        return fractions, (morf - b) / scale, (lerf - b) / scale, t1, b

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: its integral (with the data set's t1 and b), and the probability at both
        ends.
        """
        fractions, morf, lerf, _, _ = self._scaled(rows)
        integral = torch.trapezoid(lerf - morf, fractions, dim=1)
        return {
            "score": integral,
            "probability": rows["morf"][:, 0],
            "degraded_probability": rows["morf"][:, -1],
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Score, curves and the areas under them; NaN where t1 is not clearly above b, because
        equation 9 says nothing there.
        """
        if not len(rows["morf"]):
            return Result(float("nan"), float("nan"), 0)
        fractions, morf, lerf, t1, b = self._scaled(rows)
        score, error = mean_and_error(self.scores(rows)["score"])
        areas = {
            "morf_area": float(torch.trapezoid(morf.mean(dim=0), fractions)),
            "lerf_area": float(torch.trapezoid(lerf.mean(dim=0), fractions)),
        }
        return Result(
            score=float(score),
            standard_error=float(error),
            n=len(morf),
            extra={
                "original_probability": float(in_double(rows["morf"])[:, 0].mean()),
                "degraded_probability": b,
                "t1": t1,
                **areas,
            },
            curves={"morf": curve(fractions, morf), "lerf": curve(fractions, lerf)},
            x_label="fraction of tiles removed",
            y_label="probability of the target, scaled",
        )

"""Effective heat ratio (EHR): how much attribution lies in the box for every pixel that the map
marks.

Zhang et al., "Fine-Grained Neural Network Explanation" (InputIBA, NeurIPS 2021), section 4.5 and
table 2. Unlike the bounding box score, which sees only ranks, it sees how much attribution lies
outside. It depends on the scale of the map, so that a form that does not stands beside it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import in_double

Scale = Literal["max", "minmax", "none"]
SCALES: dict[Scale, str] = {
    "max": "negative attribution set to 0 and the map divided by its largest value",
    "minmax": "the map shifted and scaled so that its smallest value is 0 and its largest 1",
    "none": "negative attribution set to 0, the scale left as it is",
}


def rescaled(heatmaps: Tensor, scale: Literal["max", "minmax", "none"]) -> Tensor:
    """Maps (B, H, W) to non-negative float64 (B, pixels), see ``SCALES``; a map without contrast
    becomes 0 throughout.
    """
    values = in_double(heatmaps).flatten(1)
    values = values - values.amin(dim=1, keepdim=True) if scale == "minmax" else values.clamp_min(0)
    largest = values.amax(dim=1, keepdim=True)
    return (
        values if scale == "none" else values / largest.where(largest > 0, torch.ones_like(largest))
    )


def heat_ratios(
    values: Tensor, inside: Tensor, points: int, base_threshold: float = 0.0, top: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Effective heat ratios at quantiles evenly spaced over [0, 1].

    Args:
        values: Non-negative attribution (B, pixels).
        inside: Which pixels belong to the object (B, pixels).
        points: Number of quantiles.
        base_threshold: Values below it are set to 0, and quantiles are taken of the others.
        top: A threshold is at most so much of the map's largest value.

    Returns:
        At each threshold t, (B, points) twice: attribution inside of pixels >= t, divided by the
        number of pixels >= t, and divided by the attribution of pixels >= t. 0 where there are
        none.
    """
    ranked, order = values.sort(dim=1, descending=True)
    ranked = ranked.where(ranked >= base_threshold, torch.zeros_like(ranked))
    counted = (ranked >= base_threshold).sum(
        dim=1, keepdim=True
    )  # of these, the quantiles: ranks 0 .. counted - 1
    # Linear interpolation between order statistics, as numpy's and torch's quantile.
    place = (1 - torch.linspace(0, 1, points, dtype=values.dtype, device=values.device)) * (
        counted - 1
    ).clamp_min(0)
    place = place.round().where(
        (place - place.round()).abs() < 1e-9, place
    )  # rounding must not move t off a value
    low, high = ranked.gather(1, place.ceil().long()), ranked.gather(1, place.floor().long())
    threshold = low + (high - low) * (place.ceil() - place)
    threshold = torch.minimum(threshold, top * ranked[:, :1])
    marked = torch.searchsorted(-ranked, -threshold, right=True).clamp_max(
        counted
    )  # how many pixels are >= t
    heat = torch.stack([ranked * inside.gather(1, order), ranked]).cumsum(dim=2)  # (2, B, pixels)
    last = (marked - 1).clamp_min(0)
    within, everywhere = (sums.gather(1, last) * (marked > 0) for sums in heat)
    zero = torch.zeros_like(within)
    return (
        torch.where(marked > 0, within / marked, zero),
        torch.where(everywhere > 0, within / everywhere, zero),
    )


class EffectiveHeatRatio(HeatmapMetric):
    """Area under the effective heat ratio over quantile thresholds, of maps in [0, 1]; higher is
    better.

    Args:
        points: Quantiles, evenly spaced over [0, 1].
        scale: How maps get into [0, 1]: ``"max"``, ``"minmax"``, or ``"none"`` for maps that are
            there already.
        base_threshold: Values below it count as 0, and quantiles are taken of the others; 0.1 in
            the authors' code.
        top: A threshold is at most so much of the map's largest value; 0.99 in the authors' code.
        max_box_fraction: Images whose boxes cover this share of the picture or more are left out,
            as are images without a box.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import EffectiveHeatRatio
        >>> metric, heatmaps = EffectiveHeatRatio(), torch.rand(2, 64, 64)
        >>> object_mask = torch.zeros(2, 64, 64, dtype=torch.bool)
        >>> object_mask[:, 8:24, 8:24] = True
        >>> metric.update(classifier, images, targets, heatmaps, object_mask=object_mask)
        >>> 0 < metric.compute().score < 1
        True
    """

    name = "ehr"
    label = "Effective heat ratio"
    scalars = ("box_fraction",)
    row_curves = ("ratio", "share")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "reference": {"base_threshold": 0.1, "top": 0.99}
    }
    needs_object_mask = True

    def __init__(
        self,
        points: int = 11,
        scale: Scale = "max",
        base_threshold: float = 0.0,
        top: float = 1.0,
        max_box_fraction: float = 0.33,
    ) -> None:
        if isinstance(points, bool) or not isinstance(points, int) or points < 2:
            raise InputError(f"points is {points!r}; the area under a curve needs at least 2")
        check_literals(EffectiveHeatRatio.__init__, locals())
        if not 0 <= base_threshold < 1 or not 0 < top <= 1:
            raise InputError(
                f"base_threshold {base_threshold!r} must lie in [0, 1), and top {top!r} in (0, 1]"
            )
        if not 0 < max_box_fraction <= 1:
            raise InputError(f"max_box_fraction is {max_box_fraction!r}; it must lie in (0, 1]")
        super().__init__(
            {
                "points": points,
                "scale": scale,
                "base_threshold": base_threshold,
                "top": top,
                "max_box_fraction": max_box_fraction,
            }
        )
        self.points, self.scale, self.base_threshold, self.top = points, scale, base_threshold, top
        self.max_box_fraction = max_box_fraction

    @property
    def definition(self) -> str:
        return (
            "Attribution inside the box of the pixels at or above a threshold t, divided by the"
            f" number of those pixels; area under that ratio over {self.points} quantiles from 0 to"
            " 1 (trapezoid), t being the quantile of the values that are not below"
            f" {self.base_threshold} (the others count as 0), and at most {self.top} of the"
            f" largest; scale {self.scale}: {SCALES[self.scale]}; a map without positive"
            " attribution counts as 0; over images whose boxes cover at least one pixel and less"
            f" than {self.max_box_fraction:.0%} of the picture. scale_free: the same with the"
            " attribution at or above t instead of the number of pixels"
        )

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Both ratios at every quantile, (B, points), NaN for images left out, and the boxes' share
        of the picture.
        """
        inside = judged.needed("object_mask").flatten(1)
        fraction = inside.float().mean(dim=1)
        values = rescaled(judged.heatmaps, self.scale)
        ratios = heat_ratios(
            values, inside.to(values.device), self.points, self.base_threshold, self.top
        )
        used = ((fraction > 0) & (fraction < self.max_box_fraction))[:, None].to(values.device)
        ratio, share = (r.where(used, torch.full_like(r, torch.nan)) for r in ratios)
        return {"ratio": ratio, "share": share, "box_fraction": fraction}

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: the area under its ratio, the same of the scale-free form, and the boxes'
        share of the picture.
        """
        ratio, share = in_double(rows["ratio"]), in_double(rows["share"])
        x = torch.linspace(0, 1, self.points, dtype=torch.float64, device=ratio.device)
        return {
            "score": torch.trapezoid(ratio, x, dim=1),
            "scale_free": torch.trapezoid(share, x, dim=1),
            "box_fraction": rows["box_fraction"],
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Means over the images that are not left out; how many were."""
        if not len(rows["ratio"]):
            return Result(float("nan"), float("nan"), 0)
        scores = self.scores(rows)
        used = ~scores["score"].isnan()
        score, error = mean_and_error(scores["score"][used])
        scale_free, scale_free_error = mean_and_error(scores["scale_free"][used])
        x = torch.linspace(0, 1, self.points, dtype=torch.float64)
        return Result(
            score=float(score),
            standard_error=float(error),
            n=int(used.sum()),
            extra={
                "scale_free": float(scale_free),
                "scale_free_standard_error": float(scale_free_error),
                "left_out": float((~used).sum()),
            },
            curves={"ratio": curve(x, rows["ratio"][used]), "share": curve(x, rows["share"][used])},
            x_label="quantile of the attribution",
            y_label="effective heat ratio",
        )

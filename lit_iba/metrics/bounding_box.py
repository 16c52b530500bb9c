"""Bounding box: does the strongest attribution lie on the object?

Schulz et al., "Restricting the Flow" (ICLR 2020), section 4.5 and table 1. Of the n highest pixels
of a heatmap, n being the number of pixels in the image's box or boxes, the share that lies inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import in_double


def share_inside(heatmaps: Tensor, object_mask: Tensor) -> Tensor:
    """Share of the n highest pixels that lie inside the mask of n pixels, (B, H, W) twice to (B,);
    NaN for empty masks.

    Where pixels tie for the last places, each has the same part of them: the mean over all orders
    of the tied.
    """
    values, inside = heatmaps.flatten(1), object_mask.flatten(1)
    n = inside.sum(dim=1)  # (B,)
    ranked = values.sort(dim=1, descending=True).values
    threshold = ranked.gather(1, (n - 1).clamp_min(0)[:, None])  # the n-th highest value
    above, tied = values > threshold, values == threshold
    places = n - above.sum(dim=1)  # left for the tied
    part = places / tied.sum(dim=1)
    found = (above & inside).sum(dim=1) + part * (tied & inside).sum(dim=1)
    return torch.where(n > 0, found / n, torch.nan)


class BoundingBox(HeatmapMetric):
    """Share of the n highest pixels inside the box of n pixels; 1 is perfect, the box's share of
    the picture is chance.

    Args:
        max_box_fraction: Images whose boxes cover this share of the picture or more are left out,
            as are images without a box.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import BoundingBox
        >>> heatmaps = torch.zeros(2, 64, 64)
        >>> heatmaps[:, 8:24, 8:24] = 1.0
        >>> metric = BoundingBox()
        >>> metric.update(classifier, images, targets, heatmaps, object_mask=heatmaps > 0)
        >>> metric.compute().score
        1.0
    """

    name = "bounding_box"
    label = "Bounding box"
    scalars = ("score", "box_fraction")
    needs_object_mask = True

    def __init__(self, max_box_fraction: float = 0.33) -> None:
        if not 0 < max_box_fraction <= 1:
            raise InputError(f"max_box_fraction is {max_box_fraction!r}; it must lie in (0, 1]")
        super().__init__({"max_box_fraction": max_box_fraction})
        self.max_box_fraction = max_box_fraction

    @property
    def definition(self) -> str:
        return (
            "Share of the n highest pixels that lie inside the box or boxes (or object mask) of n"
            " pixels, pixels that tie for the last places sharing them; over images whose boxes"
            f" cover at least one pixel and less than {self.max_box_fraction:.0%} of the picture"
        )

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Score, NaN for images left out, and the share of the picture that the boxes cover, each
        (B,).
        """
        object_mask = judged.needed("object_mask")
        fraction = object_mask.flatten(1).float().mean(dim=1)
        score = share_inside(judged.heatmaps, object_mask)
        return {
            "score": torch.where(fraction < self.max_box_fraction, score, torch.nan),
            "box_fraction": fraction,
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean over the images that are not left out; how many were, and what chance would give."""
        used = ~rows["score"].isnan()
        score, error = mean_and_error(rows["score"][used])
        chance, _ = mean_and_error(rows["box_fraction"][used])
        return Result(
            score=float(score),
            standard_error=float(error),
            n=int(used.sum()),
            extra={"chance": float(in_double(chance)), "left_out": float((~used).sum())},
        )

"""Insertion and deletion: how soon the target's probability rises, or falls, as the highest pixels
come, or go, first.

Petsiuk et al., "RISE" (BMVC 2018); Zhang et al., "Fine-Grained Neural Network Explanation"
(InputIBA, NeurIPS 2021), section 4.4.2 and figure 5. The conventions differ between papers and
their code, and so they are settings and presets here.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import (
    end_points,
    in_double,
    removal_curves,
    removal_ranks,
    targets_of,
)

INPUT_IBA = {"pixels_per_step": 10, "unperturbed": False}
RISE = {"pixels_per_step": 224, "target": "predicted"}
INPUT_IBA_BLUR = {"baseline": "blur", "blur_sigma": 5.0, "blur_kernel": 9, "blur_edges": "reflect"}
RISE_BLUR = {"baseline": "blur", "blur_sigma": 5.0, "blur_kernel": 11, "blur_edges": "rise"}
STAIRCASE = {"staircase": 80}


def blurred(
    images: Tensor, sigma: float, kernel: int, edges: Literal["reflect", "rise"] = "reflect"
) -> Tensor:
    """Gaussian blur, (B, 3, H, W) to the same.

    Args:
        images: Images.
        sigma: Standard deviation in pixels.
        kernel: Side of the kernel in pixels, odd.
        edges: ``"reflect"``: the kernel is cut and normalised, the picture mirrored at its edges.
            ``"rise"``: as in RISE's code, the tails that are cut off are folded back into the
            kernel, and there are zeros around the picture.

    Raises:
        InputError: The kernel reaches further than a picture can be mirrored.
    """
    if edges == "reflect" and kernel // 2 >= min(images.shape[-2:]):
        height, width = images.shape[-2:]
        raise InputError(
            f"blur_kernel is {kernel}, too large to mirror pictures of {height}x{width} at their"
            f" edges; give {2 * min(height, width) - 1} or less"
        )
    offsets = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    if edges == "rise":
        line = torch.from_numpy(gaussian_filter1d((offsets == 0).double().numpy(), sigma))
    else:
        line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = (line / line.sum()).to(images).expand(images.shape[1], 1, 1, kernel)
    mode = "constant" if edges == "rise" else "reflect"
    padded = F.pad(images, [kernel // 2] * 4, mode=mode)
    rows = F.conv2d(padded, line, groups=images.shape[1])
    return F.conv2d(rows, line.transpose(2, 3), groups=images.shape[1])


class PixelExchange(HeatmapMetric):
    """Insertion and deletion: pixels are exchanged between a picture and a baseline, highest first.

    Args:
        pixels_per_step: Pixels exchanged between two points of the curve; the last step may have
            fewer.
        baseline: ``"zero"``, 0 after normalisation (the data set's mean colour), or ``"blur"``.
        blur_sigma: Standard deviation of the blur, in pixels.
        blur_kernel: Side of the blur's kernel in pixels, odd.
        blur_edges: ``"reflect"`` or ``"rise"``, see :func:`blurred`.
        target: Whose probability: the class ``"given"``, or the one ``"predicted"`` on the
            original.
        unperturbed: Whether the point before the first step belongs to the curve.
        staircase: So many steps in a row all get the score of the last of them, as in InputIBA's
            code, where 80 images of a forward pass share their memory; None scores each step as it
            is.
        forward_batch_size: Images per forward pass.

    Raises:
        InputError: A setting is out of range.
    """

    scalars = ("pixels",)
    row_curves = ("probability",)
    lengths = ("blur_sigma",)
    inserts: ClassVar[bool]

    def __init__(
        self,
        pixels_per_step: int = 224,
        baseline: Literal["zero", "blur"] = "zero",
        blur_sigma: float = 5.0,
        blur_kernel: int = 11,
        blur_edges: Literal["reflect", "rise"] = "reflect",
        target: Literal["given", "predicted"] = "given",
        unperturbed: bool = True,
        staircase: int | None = None,
        forward_batch_size: int = 16,
    ) -> None:
        check_counts(
            pixels_per_step=pixels_per_step,
            blur_kernel=blur_kernel,
            forward_batch_size=forward_batch_size,
        )
        check_counts(staircase=1 if staircase is None else staircase)
        check_literals(PixelExchange.__init__, locals())
        if blur_kernel % 2 == 0 or not blur_sigma > 0:
            raise InputError(
                f"blur_kernel {blur_kernel} must be odd, and blur_sigma {blur_sigma} more than 0"
            )
        blur = {
            "blur_sigma": float(blur_sigma),
            "blur_kernel": blur_kernel,
            "blur_edges": blur_edges,
        }
        settings = {
            "pixels_per_step": pixels_per_step,
            "baseline": baseline,
            **(blur if baseline == "blur" else {}),
            "target": target,
            "unperturbed": unperturbed,
            "staircase": staircase,
            "forward_batch_size": forward_batch_size,
        }
        super().__init__(settings)
        self.pixels_per_step, self.baseline, self.target = pixels_per_step, baseline, target
        self.blur = (float(blur_sigma), blur_kernel, blur_edges)
        self.unperturbed, self.staircase, self.forward_batch_size = (
            unperturbed,
            staircase,
            forward_batch_size,
        )

    @property
    def definition(self) -> str:
        sigma, kernel, edges = self.blur
        blur = (
            f"the picture blurred (Gaussian of sigma {sigma}, kernel {kernel}x{kernel}, edges:"
            f" {edges})"
        )
        baseline = (
            blur
            if self.baseline == "blur"
            else "zero after normalisation (the data set's mean colour)"
        )
        act = (
            f"inserted into {baseline}"
            if self.inserts
            else f"deleted, that is replaced by {baseline}"
        )
        whose = "predicted on the original" if self.target == "predicted" else "given"
        stairs = (
            f"; every {self.staircase} steps all have the score of the last of them"
            if self.staircase
            else ""
        )
        first = "with" if self.unperturbed else "without"
        return (
            f"Area under the curve of the {self.objective.probability_is}, the target as {whose},"
            f" as pixels are {act},"
            f" highest attribution first, equal ones in reading order, {self.pixels_per_step} a"
            f" step; trapezoid over the share of the steps done, {first} the point before the first"
            f" step{stairs}"
        )

    def _points(self, pixels: int) -> Tensor:
        """Pixels exchanged at each point of the curve, int64 (K,)."""
        steps = -(-pixels // self.pixels_per_step)
        step = torch.arange(1, steps + 1)
        if self.staircase:
            step = (-(-step // self.staircase) * self.staircase).clamp_max(steps)
        exchanged = (step * self.pixels_per_step).clamp_max(pixels)
        return (
            torch.cat([torch.zeros(1, dtype=torch.int64), exchanged])
            if self.unperturbed
            else exchanged
        )

    def fill(self, images: Tensor) -> Tensor:
        """What pixels are exchanged with, (B, C, H, W) to the same."""
        return blurred(images, *self.blur) if self.baseline == "blur" else torch.zeros_like(images)

    @property
    def shared_key(self) -> Hashable:
        return (
            "end_points",
            *(self.blur if self.baseline == "blur" else (self.baseline,)),
            self.target,
        )

    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor:
        """Target, and its probability on the original and on the baseline, see
        :func:`end_points`.
        """
        given = targets if self.target == "given" else None
        return end_points(classifier, images, given, self.fill(images), self.forward_batch_size)

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Probability at each point, (B, K)."""
        images, heatmaps, ends = judged.images, judged.heatmaps, judged.needed("shared")
        pixels = heatmaps[0].numel() if len(heatmaps) else 0
        baseline = self.fill(images)
        start, finish = (baseline, images) if self.inserts else (images, baseline)
        points = self._points(pixels)
        if len(heatmaps) and len(points) < 2:
            raise InputError(
                f"{self.name} without its unperturbed point has no area in one step:"
                f" pixels_per_step is {self.pixels_per_step}, and the pictures have {pixels}; give"
                " fewer pixels per step"
            )
        between = points.unique()
        between = between[(between > 0) & (between < pixels)]
        ranks = removal_ranks(heatmaps.flatten(1), True)[:, None]
        inner = removal_curves(
            classifier,
            start,
            targets_of(ends, judged.targets),
            finish,
            ranks,
            between,
            forward_batch_size=self.forward_batch_size,
        )[:, 0]
        first, last = (-2, -3) if self.inserts else (-3, -2)
        known = torch.cat(
            [ends[:, first, None].to(inner), inner, ends[:, last, None].to(inner)], dim=1
        )
        where = torch.searchsorted(
            torch.cat([torch.tensor([0]), between, torch.tensor([pixels])]), points
        )
        count = torch.full((len(images),), pixels, device=images.device)
        return {"probability": known[:, where.to(known.device)], "pixels": count}

    def _x(self, rows: dict[str, Tensor]) -> Tensor:
        """Share of the steps done at each point, (K,)."""
        sizes = rows["pixels"].unique().tolist()
        if len(sizes) > 1:
            raise InputError(
                f"pictures of {sizes} pixels cannot share one {self.name} curve; give pictures of"
                " one size"
            )
        points = rows["probability"].shape[1]
        steps = max(points - 1 if self.unperturbed else points, 1)
        return torch.arange(steps + 1 - points, steps + 1, dtype=torch.float64) / steps

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: the area under its curve."""
        return {
            "score": torch.trapezoid(in_double(rows["probability"]).cpu(), self._x(rows), dim=1)
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean area and mean curve."""
        if not len(rows["probability"]):
            return Result(float("nan"), float("nan"), 0)
        score, error = mean_and_error(self.scores(rows)["score"])
        return Result(
            score=float(score),
            standard_error=float(error),
            n=len(rows["probability"]),
            curves={self.name: curve(self._x(rows), rows["probability"])},
            x_label=(
                f"share of the steps done ({'inserting' if self.inserts else 'deleting'} pixels)"
            ),
            y_label=(
                "probability of the target"
                if self.target == "given"
                else "probability of what was predicted"
            ),
        )


class Insertion(PixelExchange):
    """Area under the curve as pixels are inserted into a baseline; settings as in
    :class:`PixelExchange`.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> from lit_iba.metrics import Insertion
        >>> metric, explainer = Insertion(pixels_per_step=512), Saliency(classifier)
        >>> metric.update(classifier, images, targets, explainer.attribute(images, targets).values)
        >>> 0 < metric.compute().score < 1
        True
    """

    name = "insertion"
    label = "Insertion"
    better = "higher"
    inserts = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "input_iba": INPUT_IBA | INPUT_IBA_BLUR,
        "rise": RISE | RISE_BLUR,
        "reference": INPUT_IBA | INPUT_IBA_BLUR | STAIRCASE,
    }


class Deletion(PixelExchange):
    """Area under the curve as pixels are deleted; settings as in :class:`PixelExchange`.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> from lit_iba.metrics import Deletion
        >>> metric, explainer = Deletion(pixels_per_step=512), Saliency(classifier)
        >>> metric.update(classifier, images, targets, explainer.attribute(images, targets).values)
        >>> 0 < metric.compute().score < 1
        True
    """

    name = "deletion"
    label = "Deletion"
    better = "lower"
    inserts = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "input_iba": INPUT_IBA,
        "rise": RISE,
        "reference": INPUT_IBA | STAIRCASE,
    }

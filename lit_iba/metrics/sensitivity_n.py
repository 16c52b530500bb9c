"""Sensitivity-n: does the attribution inside a random set of pixels foretell the drop when that set
is removed?

Ancona et al. (ICLR 2018), as in Schulz et al., "Restricting the Flow" (ICLR 2020), section 4.4,
equation 8 and figure 6. For every n, random sets T of n tiles: Pearson correlation over the sets of
(sum of the attribution in T, drop of the target's logit when T is zero), per image.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import in_double, perturbed_scores, tile_index, tile_sums

ROUNDING_OF_SUMS = 1e-13  # float64 sums, relative to the sum of the magnitudes
ROUNDING_OF_LOGITS = 1e-6  # float32 forward passes, relative to the logit


def set_sizes(tiles: int, points: int, min_fraction: float, max_fraction: float) -> Tensor:
    """Numbers of tiles n to remove, int64 (K,): log-spaced between fractions of all tiles, at least
    1, each once.
    """
    low, high = max(1.0, min_fraction * tiles), max(1.0, max_fraction * tiles)
    wanted = torch.linspace(math.log(low), math.log(high), points, dtype=torch.float64).exp()
    return wanted.round().long().clamp(1, tiles).unique()


def random_sets(tiles: int, sizes: Tensor, masks: int, generator: torch.Generator) -> Tensor:
    """Random sets of tiles, drawn without replacement: bool (K, masks, tiles), with sizes[k] True
    in each of [k].
    """
    sets = torch.zeros(len(sizes), masks, tiles, dtype=torch.bool)
    for k, n in enumerate(sizes.tolist()):
        for m in range(masks):
            sets[k, m, torch.randperm(tiles, generator=generator)[:n]] = True
    return sets


def correlation(a: Tensor, b: Tensor, rounding_a: Tensor, rounding_b: Tensor) -> Tensor:
    """Pearson correlation over the last dimension, in float64; 0 where either varies by no more
    than its rounding.
    """
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    varies = (a.abs().amax(dim=-1) > rounding_a) & (b.abs().amax(dim=-1) > rounding_b)
    product = a.square().sum(dim=-1).sqrt() * b.square().sum(dim=-1).sqrt()
    return torch.where(varies, (a * b).sum(dim=-1) / product, torch.zeros_like(product))


class SensitivityN(HeatmapMetric):
    """Mean correlation between the attribution in a random set and the drop of the score of the
    classifier's objective, the target's logit for classes.

    The sets are the same for all images and explainers, so that the drops, which cost all the
    forward passes, are computed once for any number of explainers (:meth:`shared_scores`).

    Args:
        tile: Side of a tile in pixels; 1 removes single pixels, the paper also has 8.
        points: How many n there are, before rounding makes some of them equal.
        masks: Random sets a n.
        min_fraction: Smallest n as a fraction of all tiles; 0 stands for one tile, as in the
            authors' code.
        max_fraction: Largest n as a fraction of all tiles.
        seed: Of the random sets.
        forward_batch_size: Images per forward pass.

    Example:
        >>> from lit_iba.baselines import Saliency
        >>> from lit_iba.metrics import SensitivityN
        >>> metric, explainer = SensitivityN(tile=16, points=3, masks=10), Saliency(classifier)
        >>> metric.update(classifier, images, targets, explainer.attribute(images, targets).values)
        >>> -1 <= metric.compute().score <= 1
        True
    """

    name = "sensitivity_n"
    label = "Sensitivity-n"
    lengths = ("tile",)
    scalars = ("tiles",)
    row_curves = ("correlation",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"reference": {"min_fraction": 0.0}}

    def __init__(
        self,
        tile: int = 8,
        points: int = 16,
        masks: int = 100,
        min_fraction: float = 0.0,
        max_fraction: float = 0.8,
        seed: int = 0,
        forward_batch_size: int = 16,
    ) -> None:
        check_counts(tile=tile, points=points, forward_batch_size=forward_batch_size)
        if not isinstance(masks, int) or masks < 2:
            raise InputError(f"masks is {masks!r}; a correlation needs at least 2 random sets")
        if not 0 <= min_fraction <= max_fraction <= 1:
            raise InputError(
                f"min_fraction {min_fraction!r} and max_fraction {max_fraction!r} must satisfy 0 <="
                " min <= max <= 1"
            )
        settings = {
            "tile": tile,
            "points": points,
            "masks": masks,
            "min_fraction": min_fraction,
            "max_fraction": max_fraction,
            "seed": seed,
            "forward_batch_size": forward_batch_size,
        }
        super().__init__(settings)
        self.tile, self.points, self.masks, self.seed = tile, points, masks, seed
        self.fractions = (min_fraction, max_fraction)
        self.forward_batch_size = forward_batch_size
        self._bank: tuple[int, Tensor] | None = None

    @property
    def definition(self) -> str:
        low, high = self.fractions
        smallest = f"{low:.1%}" if low else "one tile"
        return (
            "Mean over n, and over images, of the Pearson correlation between the sum of the"
            f" attribution in a random set of n tiles of {self.tile}x{self.tile} pixels and the"
            f" drop of {self.objective.score_is} when the set becomes 0 after normalisation;"
            f" {self.masks} sets for each of {self.points} log-spaced n from {smallest} to"
            f" {high:.0%} of the tiles, the same for every image (seed {self.seed}); a heatmap or"
            " a drop that does not vary counts as 0"
        )

    def sets(self, tiles: int, device: torch.device | None = None) -> Tensor:
        """The random sets for pictures of so many tiles, bool (K, masks, tiles)."""
        if self._bank is None or self._bank[0] != tiles:
            sizes = set_sizes(tiles, self.points, *self.fractions)
            self._bank = (
                tiles,
                random_sets(tiles, sizes, self.masks, torch.Generator().manual_seed(self.seed)),
            )
        self._bank = tiles, self._bank[1].to(device)
        return self._bank[1]

    @torch.inference_mode()
    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor:
        """Drop of the score for every random set, float32 (B, K, masks); within rounding
        it is exactly 0.
        """
        tiles = int(tile_index((images.shape[-2], images.shape[-1]), self.tile).max()) + 1
        sets = self.sets(tiles, images.device)
        flat = torch.cat(
            [torch.zeros_like(sets[0, :1]), sets.flatten(0, 1)]
        )  # the empty set first: the original
        fill = torch.zeros_like(images[:1, :, :1, :1])
        logits = perturbed_scores(
            classifier,
            images,
            targets,
            fill,
            lambda jobs: flat[jobs % len(flat)],
            len(flat),
            tile=self.tile,
            forward_batch_size=self.forward_batch_size,
            score=lambda outputs, asked: classifier.objective.score(outputs.float(), asked),
        )
        drops = logits[:, :1] - logits[:, 1:]
        drops = torch.where(
            drops.abs() > ROUNDING_OF_LOGITS * logits[:, :1].abs(), drops, torch.zeros_like(drops)
        )
        return drops.view(len(images), *sets.shape[:2])

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """Correlation at each n, (B, K)."""
        drops = in_double(judged.needed("shared"))
        sums = tile_sums(judged.heatmaps, self.tile)  # (B, tiles)
        sets = self.sets(sums.shape[1], sums.device)
        magnitude = ROUNDING_OF_SUMS * sums.abs().sum(dim=1)
        columns = []
        for k in range(len(sets)):  # one n at a time: all sets of all n in float64 would be large
            attribution = sums @ sets[k].to(sums.dtype).T  # (B, masks)
            drop = drops[:, k].to(sums.device)
            columns.append(
                correlation(
                    attribution, drop, magnitude, ROUNDING_OF_LOGITS * drop.abs().amax(dim=1)
                )
            )
        count = torch.full((len(judged),), sums.shape[1], device=judged.images.device)
        return {"correlation": torch.stack(columns, dim=1), "tiles": count}

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: the mean correlation over n."""
        return {"score": in_double(rows["correlation"]).mean(dim=1)}

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean over n and images, and the curve over n."""
        if not len(rows["correlation"]):
            return Result(float("nan"), float("nan"), 0)
        sizes = rows["tiles"].unique().tolist()
        if len(sizes) != 1:
            raise InputError(
                f"pictures of {sizes} tiles cannot share one sensitivity curve; give pictures of"
                " one size"
            )
        score, error = mean_and_error(self.scores(rows)["score"])
        x = set_sizes(int(sizes[0]), self.points, *self.fractions).double()
        return Result(
            score=float(score),
            standard_error=float(error),
            n=len(rows["correlation"]),
            curves={"correlation": curve(x, rows["correlation"])},
            x_label=(
                "pixels removed"
                if self.tile == 1
                else f"tiles of {self.tile}x{self.tile} pixels removed"
            ),
            y_label="correlation",
        )

"""Decision flip: how much of the picture can go before the classifier changes its mind?

Grabska-Barwinska, "Measuring and improving the quality of visual explanations", section 4,
equations 17-20, and supplement F. Pixels are removed least salient first (-) or most salient first
(+) until argmax changes; e is the share of the picture's norm that is gone by then. The same with
heatmaps that the method gave for *other* images says what any map of that look would reach, and the
difference is what the map knows about its image.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.metrics.base import HeatmapMetric, Result, mean_and_error
from lit_iba.metrics.judged import Judged
from lit_iba.perturbation import gaussian_blur, in_double, removal_ranks, score_jobs

Fill = Literal["zero", "mean", "blur"]
FILLS: dict[Fill, str] = {
    "zero": "0 (the data set's mean colour)",
    "mean": "the image's own mean colour",
    "blur": "the image, blurred",
}
BLUR_SIGMA = 10 / 224  # of the picture's shorter side


def filling(images: Tensor, fill: Fill) -> Tensor:
    """What removed pixels become, of a shape that expands to the images' (B, 3, H, W).

    Args:
        images: Normalised images (B, 3, H, W).
        fill: ``"zero"``, ``"mean"`` (of each image), or ``"blur"``, a Gaussian of 10 pixels where
            the picture has 224.
    """
    if fill == "zero":
        return torch.zeros_like(images[:1, :, :1, :1])
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True)
    return gaussian_blur(images, BLUR_SIGMA * min(images.shape[-2:]), border="reflect")


def look_grid(
    pixels: int, grid: Literal["uniform", "geometric"], step: int, looks: int, first_look: int
) -> Tensor:
    """How many pixels are gone at each look, int64, increasing, the last one all of them.

    Args:
        pixels: Pixels of a picture.
        grid: ``"uniform"``, every ``step`` pixels, or ``"geometric"``, each look as many times
            the one before it: most searches for e+ end within a few hundred pixels, where a coarse
            uniform grid has no look.
        step: Of the uniform grid.
        looks: Of the geometric grid; fewer where two of them are the same number of pixels.
        first_look: Pixels that are gone at the first look of the geometric grid.

    Example:
        >>> from lit_iba.metrics.decision_flip import look_grid
        >>> look_grid(800, "geometric", 0, looks=5, first_look=50).tolist()
        [50, 100, 200, 400, 800]
        >>> look_grid(800, "uniform", 300, 0, 0).tolist()
        [300, 600, 800]
    """
    if grid == "uniform":
        return torch.arange(step, pixels + step, step).clamp_max(pixels)
    share = torch.linspace(0, 1, looks, dtype=torch.float64) if looks > 1 else torch.ones(1)
    first = min(first_look, pixels)
    return (first * (pixels / first) ** share).round().long().unique()


@torch.inference_mode()
def first_flips(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    decisions: Tensor,
    ranks: Tensor,
    steps: Tensor,
    forward_batch_size: int,
    fill: Tensor | None = None,
) -> Tensor:
    """The first step at which the classifier no longer decides as it did, exactly as if steps were
    tried one by one.

    A flip need not last, so that a later step says nothing about an earlier one and every step up
    to the first flip has to be looked at; no search can do with fewer. They are looked at in order,
    all searches side by side: a round takes as many steps of each search as fill a forward pass
    (one, as long as there are that many searches), and a search ends with the round of its first
    flip.

    Args:
        classifier: The frozen classifier.
        images: Originals (B, 3, H, W).
        targets: What is asked about them (B, ...).
        decisions: What the classifier decides about them (B,), see :meth:`Objective.decision`.
        ranks: When each pixel goes in each of M orders (B, M, H * W).
        steps: How many pixels are gone at each step (S,), increasing.
        forward_batch_size: Images per forward pass.
        fill: What removed pixels become, see :func:`filling`; zero by default.

    Returns:
        Index into ``steps``, int64 (B, M); S where no step flips.
    """
    network, decide = classifier.folded(), classifier.objective.decision
    orders, flat, steps = ranks.shape[1], ranks.flatten(0, 1), steps.to(images.device)
    found = torch.full((len(flat),), len(steps), device=images.device)
    searching = torch.arange(len(flat), device=images.device)
    fill, start = filling(images, "zero") if fill is None else fill, 0
    while len(searching) and start < len(steps):
        block = steps[start : start + max(1, forward_batch_size // len(searching))]
        search, step = searching.repeat_interleave(len(block)), block.repeat(len(searching))
        flipped = (
            score_jobs(
                network,
                images,
                fill,
                search // orders,
                lambda jobs, search=search, step=step: flat[search[jobs]] < step[jobs][:, None],  # type: ignore[misc]
                lambda outputs, picture: decide(outputs, targets[picture]) != decisions[picture],
                tile=1,
                forward_batch_size=forward_batch_size,
            )
            .view(len(searching), len(block))
            .bool()
        )
        done = flipped.any(dim=1)
        found[searching[done]] = start + flipped[done].int().argmax(dim=1)
        searching, start = searching[~done], start + len(block)
    return found.view(len(images), orders)


def removed_share(images: Tensor, ranks: Tensor, gone: Tensor) -> Tensor:
    """1 - ||x_s|| / ||x|| (equation 17) when ``gone`` (B, M) pixels are removed in each order (B,
    M, H * W): (B, M).
    """
    energy = in_double(images).square().sum(dim=1).flatten(1)  # (B, H * W)
    total = energy.sum(dim=1)
    ranks, gone = ranks.to(energy.device), gone.to(energy.device)
    kept = [
        (energy * (ranks[:, m] >= gone[:, m, None])).sum(dim=1) for m in range(ranks.shape[1])
    ]  # one order at a time
    return 1 - (torch.stack(kept, dim=1) / total[:, None]).sqrt()


class DecisionFlip(HeatmapMetric):
    """Share of the picture removed before the decision flips, against maps of other images; the
    score is delta e-.

    Flips are not monotone, so that the first one is exact on the grid of looks only: 224 pixels a
    look, or the geometric grid, whose 40 looks are close where e+ is found and cost a fifth.

    Args:
        pixels_per_step: Pixels removed between two looks at the classifier on the uniform grid.
        noise_maps: Heatmaps of other images of the same method that each image is compared with;
            their e is averaged.
        seed: Of the draw of other images.
        forward_batch_size: Images per forward pass.
        grid: ``"uniform"``, or ``"geometric"``: ``looks`` looks from ``first_look`` pixels to all.
        looks: Of the geometric grid.
        first_look: Pixels gone at the first look of the geometric grid.
        fill: What the classifier sees in place of removed pixels: ``"zero"``, the data set's mean
            colour; ``"mean"``, the image's own; ``"blur"``. What counts as removed is the same.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import DecisionFlip
        >>> heatmaps, others = torch.rand(2, 64, 64), torch.rand(2, 1, 64, 64)
        >>> metric = DecisionFlip(pixels_per_step=1024, noise_maps=1)
        >>> metric.update(classifier, images, targets, heatmaps, others=others)
        >>> metric.compute().n
        2
    """

    name = "decision_flip"
    less_other_maps = True
    label = "Decision flip"
    scalars = ("e_minus", "e_plus", "e_minus_noise", "e_plus_noise", "unflipped")

    def __init__(
        self,
        pixels_per_step: int = 224,
        noise_maps: int = 5,
        seed: int = 0,
        forward_batch_size: int = 16,
        grid: Literal["uniform", "geometric"] = "uniform",
        looks: int = 40,
        first_look: int = 50,
        fill: Fill = "zero",
    ) -> None:
        check_literals(DecisionFlip.__init__, locals())
        check_counts(
            pixels_per_step=pixels_per_step,
            noise_maps=noise_maps,
            forward_batch_size=forward_batch_size,
            looks=looks,
            first_look=first_look,
        )
        chosen = (
            {"pixels_per_step": pixels_per_step}
            if grid == "uniform"
            else {"grid": grid, "looks": looks, "first_look": first_look}
        )
        super().__init__(
            {
                **chosen,
                **({} if fill == "zero" else {"fill": fill}),
                "noise_maps": noise_maps,
                "seed": seed,
                "forward_batch_size": forward_batch_size,
            }
        )
        self.grid, self.looks, self.first_look = grid, looks, first_look
        self.pixels_per_step, self.fill, self.seed = pixels_per_step, fill, seed
        self.forward_batch_size = forward_batch_size
        self.others_wanted = noise_maps

    @property
    def definition(self) -> str:
        grid = (
            f"{self.pixels_per_step} a step"
            if self.grid == "uniform"
            else f"on a geometric grid of {self.looks} looks from {self.first_look} pixels to all"
        )
        return (
            "e = 1 - ||x_s|| / ||x||, x_s being the normalised image x without the removed pixels,"
            f" where the classifier sees {FILLS[self.fill]}, {grid}, until"
            f" {self.objective.decision_is} differs from the original's: least attribution first"
            " (e-), most first (e+), e_delta = e- minus"
            " e+, equal pixels in reading order, e = 1 where it never differs; delta e = e minus"
            f" the mean e of the same method's heatmaps of {self.others_wanted} other images, drawn"
            f" by sample key (seed {self.seed}); the score is the mean delta e-"
        )

    @property
    def shared_key(self) -> Hashable:
        return "decision"

    @torch.inference_mode()
    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor:
        """What the classifier decides about the originals, int64 (B,)."""
        network, decide = classifier.folded(), classifier.objective.decision
        size = self.forward_batch_size
        parts = zip(images.split(size), targets.split(size), strict=True)
        return torch.cat([decide(network(some), asked) for some, asked in parts])

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """e- and e+ of the heatmaps and, averaged, of the others; how many of these searches never
        flipped; all (B,).
        """
        images, decisions = judged.images, judged.needed("shared")
        maps = torch.cat([judged.heatmaps[:, None], judged.needed("others")], dim=1).flatten(
            2
        )  # (B, 1 + n, H * W)
        count, pixels = maps.shape[1:]
        orders = [
            removal_ranks(maps.flatten(0, 1), most_first).view_as(maps)
            for most_first in (False, True)
        ]
        ranks = torch.cat(orders, dim=1)  # (B, 2 (1 + n), H * W)
        steps = look_grid(pixels, self.grid, self.pixels_per_step, self.looks, self.first_look)
        steps, fill = steps.to(images.device), filling(images, self.fill)
        flips = first_flips(
            classifier,
            images,
            judged.targets,
            decisions,
            ranks,
            steps,
            self.forward_batch_size,
            fill,
        )
        e = removed_share(images, ranks, steps[flips.clamp_max(len(steps) - 1)])
        minus, plus = e[:, :count], e[:, count:]
        return {
            "e_minus": minus[:, 0],
            "e_plus": plus[:, 0],
            "e_minus_noise": minus[:, 1:].mean(dim=1),
            "e_plus_noise": plus[:, 1:].mean(dim=1),
            "unflipped": (flips == len(steps)).sum(dim=1),
        }

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: delta e- as the score, every e and every delta e (equations 17-20, supplement
        F.1).
        """
        minus, plus, minus_noise, plus_noise, unflipped = (
            in_double(rows[name]) for name in self.scalars
        )
        return {
            "score": minus - minus_noise,
            "e_minus": minus,
            "e_plus": plus,
            "e_delta": minus - plus,
            "delta_e_minus": minus - minus_noise,
            "delta_e_plus": plus - plus_noise,
            "delta_e_delta": (minus - minus_noise) - (plus - plus_noise),
            "e_minus_noise": minus_noise,
            "e_plus_noise": plus_noise,
            "unflipped": unflipped,
        }

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean delta e-; median and quartiles of every e and delta e; how many searches never
        flipped.
        """
        if not len(rows["e_minus"]):
            return Result(float("nan"), float("nan"), 0)
        scores = self.scores(rows)
        score = scores.pop("score")
        used = ~score.isnan()  # a picture of nothing but the mean colour has no norm to lose
        mean, error = mean_and_error(score[used])
        extra = {"unflipped": float(scores.pop("unflipped").sum())}
        for name, values in scores.items():
            values = values[used]
            extra[name] = float(values.mean())
            for quantile, label in (
                (0.25, "lower_quartile"),
                (0.5, "median"),
                (0.75, "upper_quartile"),
            ):
                extra[f"{name}_{label}"] = (
                    float(values.quantile(quantile)) if len(values) else float("nan")
                )
        return Result(
            score=float(mean), standard_error=float(error), n=int(used.sum()), extra=extra
        )

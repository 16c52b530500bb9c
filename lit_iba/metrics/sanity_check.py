"""Sanity check: does a heatmap change when the network's weights are randomised, layer after layer
from the output down?

Adebayo et al. (NeurIPS 2018), cascading randomisation; IBA (Schulz et al., ICLR 2020), section 4.3
and appendix G.1, figure 6; InputIBA (Zhang et al., NeurIPS 2021), section 4.3; VarSal, section 4.3.
A method whose heatmaps stay the same does not explain the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.regression import spearman_corrcoef

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.randomization import BATCH_NORMS, INITIALIZATIONS, cascade, randomized
from lit_iba.errors import InputError, unknown_name
from lit_iba.explainer import E, Explainer, Surroundings
from lit_iba.metrics.base import HeatmapMetric, Result, curve, mean_and_error
from lit_iba.metrics.judged import Judged, Subject
from lit_iba.perturbation import in_double
from lit_iba.statistics import INPUT, FeatureStatistics

SSIM_DEFINITIONS = {
    "torchmetrics": (
        "variances over the window, borders reflected, mean over all pixels (torchmetrics)"
    ),
    "skimage": "sample variances, windows inside the picture only (scikit-image's default)",
}
FLIPS = {
    "signed": "; of a signed heatmap h the larger of SSIM with h and -h",
    "lrp": "; of a signed heatmap h of LRP the larger of SSIM with h and -h",
    "none": "",
}
STATISTICS = {
    "estimated": "estimated again on the randomised network where its features differ",
    "kept": "those of the trained network",
}


def rescaled(maps: Tensor, low: float = 0.01, high: float = 0.99) -> Tensor:
    """Each map clamped to its own quantiles and rescaled to [0, 1], (B, H, W); a constant map
    becomes 0 (IBA, G.1).
    """
    flat = in_double(maps).flatten(1)
    ends = flat.new_tensor([low, high])
    # One map at a time, because torch.quantile takes 2^24 numbers at most.
    found = torch.stack([torch.quantile(row, ends) for row in flat]).to(maps)  # (B, 2)
    bottom, top = found[:, 0, None, None], found[:, 1, None, None]
    return (maps.clamp(bottom, top) - bottom) / (top - bottom).clamp_min(
        torch.finfo(maps.dtype).tiny
    )


def told_apart(maps: Tensor, scaled: Tensor) -> Tensor:
    """Whether a map's form is in what :func:`rescaled` made of it, bool (B,): of a map that varies
    in fewer than one pixel in a hundred nothing is left, and any two of them would be alike.
    """
    varies, kept = (one.flatten(1).amax(1) > one.flatten(1).amin(1) for one in (maps, scaled))
    return kept | ~varies


def ssim(
    first: Tensor,
    second: Tensor,
    window: int = 5,
    definition: Literal["torchmetrics", "skimage"] = "torchmetrics",
    data_range: float = 1.0,
) -> Tensor:
    """SSIM of maps in [0, 1] under a uniform window, (B, H, W) twice to (B,); K1 = 0.01, K2 =
    0.03.

    ``data_range`` is 2 in the papers' day: scikit-image then took floats to lie in [-1, 1].

    Raises:
        InputError: The window is larger than the maps.
    """
    height, width = first.shape[-2:]
    if window > min(height, width):
        raise InputError(
            f"window is {window}, larger than maps of {height}x{width}; give a smaller one"
        )
    # Sample variances are n / (n - 1) times the window's; so is every term beside C2, which shrinks
    # instead.
    n, skimage = window * window, definition == "skimage"
    mean, picture = structural_similarity_index_measure(
        in_double(first)[:, None],
        in_double(second)[:, None],
        gaussian_kernel=False,
        kernel_size=window,
        reduction="none",
        data_range=data_range,
        k2=0.03 * math.sqrt((n - 1) / n) if skimage else 0.03,
        return_full_image=True,
    )
    edge = window // 2
    return picture[:, 0, edge:-edge, edge:-edge].mean(dim=(1, 2)) if skimage else mean


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of maps, (B, H, W) twice to (B,); 0 where a map is constant."""
    found = spearman_corrcoef(in_double(first).flatten(1).T, in_double(second).flatten(1).T)
    return found.reshape(len(first))


class Reestimated:
    """Feature statistics of a randomised network; whatever else an explainer asks for comes from
    the trained one's.

    Args:
        trained: The trained network's surroundings.
        original: The trained network.
    """

    def __init__(self, trained: Surroundings, original: FrozenClassifier) -> None:
        self.trained, self.original = trained, original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trained, name)

    def estimated(
        self,
        classifier: FrozenClassifier,
        name: str,
        load: Callable[[Path], E],
        estimate: Callable[[Iterator[Tensor], str], E],
    ) -> E:
        """Anything else that is measured on images (patterns): measured again and not kept."""
        return estimate(self.trained.batches(classifier), name)

    @torch.no_grad()
    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        """Statistics of one layer, estimated on the trained network's images unless its features
        are the same.
        """
        if layer == INPUT:  # images are what they were, whatever the network does
            return self.trained.statistics(self.original, layer)
        shape = (2, classifier.channels, *classifier.preprocessing.size)
        probe = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        probe = probe.to(classifier.device)
        before, now = (
            network.taps([layer])(probe)[layer] for network in (self.original, classifier)
        )
        if torch.equal(before, now):
            return self.trained.statistics(self.original, layer)
        return FeatureStatistics.estimate(classifier, layer, self.trained.batches(classifier))


class SanityCheck(HeatmapMetric):
    """Similarity of a heatmap to that of the same network with its last layers randomised; low is
    good.

    The explainer is built again on every randomised network, with the same settings, keys and
    targets. Explainers that were trained on the classifier (a readout) are put on the randomised
    one as they are, as in the paper; VarSal with the paper's encoder, which reads no classifier,
    takes a checkpoint for each randomised one instead. A file of statistics named in the settings
    is kept. The explainers of one ``subject`` stay in memory while the same object is given to
    :meth:`update`: with ``points: null`` and a deep network these are many.

    Args:
        points: How many points of the cascade are looked at, evenly spaced, the first and the last
            layer among them; None takes every layer.
        layers: Layers or blocks down to which (inclusive) the network is randomised, instead of
            ``points``.
        initialization: ``"own"`` or ``"xavier"`` (the authors of InputIBA), see
            ``INITIALIZATIONS``.
        batch_norm: ``"reset"`` or ``"keep"``, see ``BATCH_NORMS``.
        statistics: Feature statistics of the explainers that need them: ``"estimated"`` or
            ``"kept"``.
        ssim: ``"torchmetrics"``, or ``"skimage"`` as in the papers.
        window: Side of SSIM's uniform window, odd.
        data_range: Of SSIM; 2 is what scikit-image took for floats when IBA was written.
        flip: Which heatmaps may also resemble the negative one, the larger SSIM counting: all that
            are ``"signed"``, those of ``"lrp"`` as in IBA, or ``"none"``.
        control: Whether the cascade begins with the intact network and another seed, point 0. It
            counts in no score: what a method has there is what its own noise leaves, against which
            the other points say something.
        seed: Of the draw of weights.

    Raises:
        InputError: A setting that does not exist.

    Example:
        >>> from lit_iba import build_explainer
        >>> from lit_iba.metrics import SanityCheck, Subject
        >>> explainer, metric = build_explainer("saliency", classifier), SanityCheck(layers=["fc"])
        >>> values = explainer.attribute(images, targets).values
        >>> subject = Subject.named(explainer, "saliency", {})
        >>> metric.update(classifier, images, targets, values, subject=subject)
        >>> -1 <= metric.compute().score <= 1
        True
    """

    name = "sanity_check"
    label = "Sanity check"
    needs_subject = True
    better = "lower"
    row_curves = (
        "ssim",
        "spearman",
        "randomized",
    )  # at each point; randomized: how many layers are
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "iba": {"ssim": "skimage", "points": None, "data_range": 2.0, "flip": "lrp"},
        "input_iba": {
            "ssim": "skimage",
            "initialization": "xavier",
            "layers": [
                "classifier.6",
                "classifier.0",
                "features.28",
                "features.24",
                "features.21",
                "features.17",
                "features.12",
                "features.7",
            ],
        },
    }

    def __init__(
        self,
        points: int | None = 10,
        layers: Sequence[str] | None = None,
        initialization: Literal["own", "xavier"] = "own",
        batch_norm: Literal["reset", "keep"] = "reset",
        statistics: Literal["estimated", "kept"] = "estimated",
        ssim: Literal["torchmetrics", "skimage"] = "torchmetrics",
        window: int = 5,
        data_range: float = 1.0,
        flip: Literal["signed", "lrp", "none"] = "signed",
        control: bool = True,
        seed: int = 0,
    ) -> None:
        check_literals(SanityCheck.__init__, locals())
        check_counts(window=window, **({} if points is None else {"points": points}))
        check_numbers(0, exclusive=True, data_range=data_range)
        if window % 2 == 0 or window == 1:
            raise InputError(f"window is {window}; it must be odd and at least 3")
        layers = None if layers is None else list(layers)
        super().__init__(
            {
                "points": None if layers else points,
                "layers": layers,
                "window": window,
                "data_range": data_range,
                "flip": flip,
                "control": control,
                "seed": seed,
                "ssim": ssim,
                "initialization": initialization,
                "batch_norm": batch_norm,
                "statistics": statistics,
            }
        )
        self.points, self.layers, self.seed = points, layers, seed
        self.window, self.data_range, self.control = window, data_range, control
        self.flip: Literal["signed", "lrp", "none"] = flip
        self.kind, self.statistics = ssim, statistics  # a state is called ssim
        self.drawn = {"seed": seed, "initialization": initialization, "batch_norm": batch_norm}
        self._cascade: tuple[Subject, list[tuple[int, Explainer]]] | None = None

    @property
    def definition(self) -> str:
        points = "every layer" if self.points is None else f"{self.points} points of the cascade"
        points = f"the points down to {', '.join(self.layers)}" if self.layers else points
        control = "; point 0, the intact network with another seed, is no part of it"
        control = control if self.control else ""
        return (
            "Similarity between the heatmap and that of the network with its weights randomised "
            "from the last layer down (cascading, in topological order), mean over "
            f"{points}{control}; SSIM with a uniform window of {self.window}, "
            f"{SSIM_DEFINITIONS[self.kind]}, K1 0.01, K2 0.03, data range {self.data_range:g}, of "
            "maps clamped to their 1st and 99th percentile and rescaled to [0, "
            f"1]{FLIPS[self.flip]} (images with a map that varies outside these percentiles alone "
            "are left out); beside it Spearman's rank correlation of the raw maps; "
            f"weights: {INITIALIZATIONS[str(self.drawn['initialization'])]}, a fresh seed a layer "
            f"(from seed {self.seed}); {BATCH_NORMS[str(self.drawn['batch_norm'])]}; feature "
            f"statistics: {STATISTICS[self.statistics]}"
        )

    def _stops(self, order: list[list[str]], model: str) -> list[int]:
        """How many layers are randomised at each point."""
        if self.layers:
            ends = []
            for wanted in self.layers:
                found = [
                    i + 1
                    for i, names in enumerate(order)
                    if any(name == wanted or name.startswith(f"{wanted}.") for name in names)
                ]
                if not found:
                    raise unknown_name(
                        f"layer with weights of {model}", wanted, [names[0] for names in order]
                    )
                ends.append(found[-1])
            return sorted(set(ends))
        count = len(order) if self.points is None else min(self.points, len(order))
        return (
            torch.linspace(1, len(order), count, dtype=torch.float64)
            .round()
            .long()
            .unique()
            .tolist()
        )

    def _explainers(self, subject: Subject) -> list[tuple[int, Explainer]]:
        """How many layers are randomised, and the explainer of that network, at each point of the
        cascade; 0 of the control.
        """
        if self._cascade is None or self._cascade[0] is not subject:
            network = original = subject.explainer.classifier
            order, found, done = cascade(original), [], 0
            surroundings = subject.surroundings
            if self.control:
                control = subject.build(original, surroundings)
                control.seed += 1
                found.append((0, control))
            if self.statistics == "estimated" and surroundings is not None:
                surroundings = Reestimated(surroundings, original)
            for stop in self._stops(order, original.name):
                network = randomized(network, order[done:stop], **self.drawn)  # type: ignore[arg-type]
                found.append((stop, subject.build(network, surroundings)))
                done = stop
            self._cascade = subject, found
        return self._cascade[1]

    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """SSIM and rank correlation at each point, (B, K)."""
        rows: dict[str, list[Tensor]] = {name: [] for name in self.row_curves}
        assert judged.subject is not None  # update() checks it
        heatmaps = judged.heatmaps
        for stop, explainer in self._explainers(judged.subject):
            found = explainer.attribute(judged.images, judged.targets, keys=judged.keys)
            maps = found.values.float()
            how = (self.window, self.kind, self.data_range)
            similarity = ssim(rescaled(heatmaps), rescaled(maps), *how)
            known = told_apart(heatmaps, rescaled(heatmaps)) & told_apart(maps, rescaled(maps))
            if found.signed and self._may_be_flipped(explainer):
                similarity = similarity.maximum(ssim(rescaled(heatmaps), rescaled(-maps), *how))
            rows["ssim"].append(similarity.where(known, torch.nan))
            rows["spearman"].append(rank_correlation(heatmaps, maps))
            rows["randomized"].append(torch.full((len(judged),), float(stop)))
        return {name: torch.stack(values, dim=1) for name, values in rows.items()}

    def _may_be_flipped(self, explainer: Explainer) -> bool:
        return self.flip == "signed" or (self.flip == "lrp" and explainer.name.startswith("lrp"))

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per image: the mean SSIM and rank correlation over the points, SSIM at the first and the
        last of them, and SSIM of the control.
        """
        first = int(self.control)
        found = {
            "score": rows["ssim"][:, first:].mean(dim=1),
            "spearman": rows["spearman"][:, first:].mean(dim=1),
            "ssim_at_first_point": rows["ssim"][:, first],
            "ssim_at_last_point": rows["ssim"][:, -1],
        }
        return found | ({"ssim_of_control": rows["ssim"][:, 0]} if self.control else {})

    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """Mean similarity, and its curves over the number of randomised layers."""
        if not len(rows.get("ssim", ())):
            return Result(float("nan"), float("nan"), 0)
        x = rows["randomized"][0]
        told = rows["ssim"].isfinite().all(dim=1)
        rows = {name: values[told] for name, values in rows.items()}
        scores = self.scores(rows)
        score, error = mean_and_error(scores.pop("score"))
        return Result(
            score=float(score),
            standard_error=float(error),
            n=len(rows["ssim"]),
            extra={name: float(mean_and_error(values)[0]) for name, values in scores.items()},
            curves={"ssim": curve(x, rows["ssim"]), "spearman": curve(x, rows["spearman"])},
            x_label="layers randomised, from the last",
            y_label="similarity to the original heatmap",
        )

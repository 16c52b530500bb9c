"""Measures how uncertain maps are, and how wrong, on clean and corrupted images; the shard is the
unit of work.

The error of a map is its low-k perturbation score (VarSal, figure 5a): the KL divergence from the
image's own prediction, averaged over k. A run that was stopped measures only the shards that are
missing. What follows from the measurements stands in uncertainty_results.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_iba import __version__
from lit_iba.checks import check_counts
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import drawn
from lit_iba.data import Shard, ShardIndex
from lit_iba.errors import InputError
from lit_iba.explainer import build_explainer
from lit_iba.files import FolderLock
from lit_iba.metrics.low_k_perturbation import LowKPerturbation, low_k_divergences
from lit_iba.objectives import Classification
from lit_iba.randomness import sample_generators
from lit_iba.report.run_folder import RunFolder
from lit_iba.resumable.content import with_content
from lit_iba.resumable.identity import classifier_identity, explainer_identity
from lit_iba.resumable.progress import EvaluationProgress
from lit_iba.resumable.selection import SelectedImages, Selection
from lit_iba.resumable.store import ShardStore, sweep_abandoned
from lit_iba.varsal.corruptions import STRENGTHS, check_corruption, corrupt_images
from lit_iba.varsal.explainer import sample_map
from lit_iba.varsal.uncertainty import Array, border_correlation, doubt, mean_deviation

CLEAN = ("clean", 0)
GROUP = "measured"
MEASURES = ("deviation", "standardized_deviation")
CONTROLS = ("entropy", "least_confidence")  # of the classifier's prediction, where it is of classes


@runtime_checkable
class PosteriorExplainer(Protocol):
    """What a map's uncertainty can be asked of, such as VarSal."""

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each pixel's attribution, (B, H, W) each, for images (B,
        3, H, W).
        """
        ...


@dataclass(frozen=True)
class UncertaintySettings:
    """What is measured.

    An image costs ``len(percentages)`` forward passes for each condition, and ``samples`` + 1 times
    as many more for each calibrated one.

    Args:
        corruptions: Keys of ``STRENGTHS``.
        severities: Of each corruption, from 1 to 5; clean images are always measured.
        samples: Maps drawn from the posterior of an image for the calibration, beside one held out;
            0 leaves that out. With 19, the levels 10 to 90 % can be met exactly.
        calibrated_severities: Where that is done; 0 stands for clean.
        percentages: Of the least salient pixels that are removed to judge a map, as in
            ``low_k_perturbation``.
        max_images: At most so many; None takes all.
        batch_size: Images that are explained together.
        forward_batch_size: Images per forward pass of the classifier.
        gallery: Images in figure 7.
        resamples: Of the bootstrap.
        seed: Of the corruptions, the samples, the bootstrap, and the draw of images.

    Example:
        >>> from lit_iba.varsal import UncertaintySettings
        >>> UncertaintySettings(corruptions=("brightness",), severities=(1, 5)).samples
        19
    """

    corruptions: tuple[str, ...] = tuple(STRENGTHS)
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    samples: int = 19
    calibrated_severities: tuple[int, ...] = (0,)
    percentages: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    max_images: int | None = None
    batch_size: int = 16
    forward_batch_size: int = 32
    gallery: int = 4
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(
            batch_size=self.batch_size,
            resamples=self.resamples,
            forward_batch_size=self.forward_batch_size,
        )
        for kind in self.corruptions:
            for severity in self.severities:
                check_corruption(kind, severity)
        if len(set(self.conditions)) < len(self.conditions):
            raise InputError(
                f"a corruption or severity is named twice: {self.corruptions}, {self.severities}"
            )
        if self.samples < 0 or self.gallery < 0:
            raise InputError(
                f"samples is {self.samples} and gallery {self.gallery}; both must be 0 or more"
            )
        if unknown := set(self.calibrated_severities) - {0, *self.severities}:
            raise InputError(
                f"calibrated_severities names {sorted(unknown)}, which are not among the severities"
                " (or 0)"
            )
        LowKPerturbation(self.percentages)  # checks them
        Selection(self.max_images, None, self.seed)  # likewise

    @property
    def conditions(self) -> list[tuple[str, int]]:
        """Clean first, then every corruption at every severity."""
        return [
            CLEAN,
            *((kind, severity) for kind in self.corruptions for severity in self.severities),
        ]

    @property
    def calibrated(self) -> list[tuple[str, int]]:
        """The conditions under which maps are sampled."""
        return (
            [c for c in self.conditions if c[1] in self.calibrated_severities]
            if self.samples
            else []
        )

    def identity(self) -> dict[str, Any]:
        """What an image's measurements depend on."""
        apart = ("max_images", "batch_size", "forward_batch_size", "gallery", "resamples")
        return {name: value for name, value in asdict(self).items() if name not in apart}


@dataclass(frozen=True)
class Measurements:
    """What was measured, images by conditions.

    Args:
        rows: ``deviation``, ``standardized_deviation``, ``border`` (see
            :func:`lit_iba.varsal.uncertainty.border_correlation`), ``error``, and for classes
            ``entropy`` and ``least_confidence`` of the prediction, float64 (N, conditions); and
            ``outcomes``, the errors of sampled maps, float64 (N, calibrated conditions, samples +
            1), of which the last is held out.
        keys: Names of the images.
        figure: See :func:`figure_7`.
        about: Where the measurements come from: date, command, classifier, explainer and data.
    """

    rows: dict[str, Array]
    keys: list[str]
    figure: list[dict[str, Any]]
    about: dict[str, Any]


def run_uncertainty(
    classifier: FrozenClassifier,
    explainer: str,
    explainer_settings: dict[str, Any],
    data: ShardIndex,
    out: str | Path,
    settings: UncertaintySettings,
) -> Measurements:
    """Measure what is not in ``out`` yet.

    Args:
        classifier: On its device.
        explainer: Name or class path of an explainer with a ``posterior``.
        explainer_settings: Such as ``checkpoint``.
        data: Shards.
        out: Folder; measurements stand in ``measured/<shard>.safetensors``.
        settings: What is measured.

    Raises:
        InputError: The explainer has no posterior; the folder holds other settings; no image is
            left.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> from lit_iba.varsal import UncertaintySettings, run_uncertainty
        >>> settings = UncertaintySettings(
        ...     ("brightness",), severities=(3,), samples=0, percentages=(50,), gallery=0
        ... )
        >>> data, trained = ShardIndex.load("digits/test"), {"checkpoint": "runs/varsal/last.ckpt"}
        >>> measured = run_uncertainty(classifier, "varsal", trained, data, "run", settings)
        >>> sorted(measured.__dict__)
        ['about', 'figure', 'keys', 'rows']
    """
    built = build_explainer(explainer, classifier, explainer_settings)
    if not isinstance(built, PosteriorExplainer):
        raise InputError(
            f"{explainer!r} gives no uncertainty (it has no posterior); use varsal with a"
            " checkpoint"
        )
    lock = FolderLock(out)
    try:
        sweep_abandoned(Path(out))
        store = ShardStore(out, f"delete {Path(out) / GROUP}")  # no setting does so
        selection = Selection(settings.max_images, None, settings.seed)
        quotas = selection.quotas([shard.count for shard in data.shards])
        shares = zip(data.shards, quotas, strict=True)
        data = with_content(data, out, [shard.stem for shard, quota in shares if quota])
        made_of = {
            "lit_iba": __version__,
            "classifier": classifier_identity(classifier),
            "preprocessing": classifier.preprocessing.to_dict(),
            "explainer": explainer_identity(explainer, explainer_settings),
            "settings": settings.identity(),
            "rows": measured_rows(classifier),
        }
        pictures, keys, times = list[Tensor](), list[str](), len(settings.conditions)
        with EvaluationProgress({GROUP: sum(quotas) * times}, len(data.shards)) as progress:
            for shard, quota in zip(data.shards, quotas, strict=True):
                fingerprint = made_of | {
                    "shard": _identity(shard),
                    "selection": selection.identity(quota),
                }
                chosen = None
                if store.complete(GROUP, shard.stem, fingerprint):
                    progress.stored(quota * times, GROUP)
                else:
                    chosen = selection.select(shard, quota, classifier.preprocessing)
                    progress.shrink((quota - len(chosen)) * times, GROUP)
                    rows = _measure(classifier, built, chosen, settings, progress, shard.stem)
                    store.write(GROUP, shard.stem, rows, fingerprint, {"keys": chosen.keys})
                if len(keys) < settings.gallery:
                    chosen = chosen or selection.select(shard, quota, classifier.preprocessing)
                    pictures.append(chosen.pictures[: settings.gallery - len(keys)])
                    keys += chosen.keys[: settings.gallery - len(keys)]
                progress.shard_done(shard.stem)
        read = [store.read(GROUP, shard.stem) for shard in data.shards]
        rows = {name: torch.cat([tensors[name] for tensors, _ in read]) for name in read[0][0]}
        if not len(rows["error"]):
            for shard in data.shards:  # what was measured of nothing
                store.path(GROUP, shard.stem).unlink()
            why = selection.why_none(data.shards, classifier.preprocessing)
            raise InputError(f"no image of the data is left to measure: {why}")
        names = [key for _, metadata in read for key in _keys(metadata)]
        about = RunFolder.heading() | {
            "classifier": classifier.identity,
            "explainer": made_of["explainer"],
            "data": {"images": data.total, "used": len(names), "identity": data.identity()},
        }
        figure = figure_7(classifier, built, torch.cat(pictures), keys, settings) if keys else []
        return Measurements(
            {name: value.numpy() for name, value in rows.items()}, names, figure, about
        )
    finally:
        lock.release()


def measured_rows(classifier: FrozenClassifier) -> list[str]:
    """Names of what is measured of an image under each condition."""
    controls = CONTROLS if isinstance(classifier.objective, Classification) else ()
    return [*MEASURES, *controls, "border", "error"]


@torch.no_grad()
def _measure(
    classifier: FrozenClassifier,
    explainer: PosteriorExplainer,
    chosen: SelectedImages,
    settings: UncertaintySettings,
    progress: EvaluationProgress,
    name: str,
) -> dict[str, Tensor]:
    """The rows of a shard's images, see :class:`Measurements`."""
    conditions, calibrated = settings.conditions, settings.calibrated
    rows = {
        name: torch.zeros(len(chosen), len(conditions), dtype=torch.float64)
        for name in measured_rows(classifier)
    }
    rows["outcomes"] = torch.zeros(
        len(chosen), len(calibrated), settings.samples + 1, dtype=torch.float64
    )
    for which in torch.arange(len(chosen)).split(settings.batch_size) if len(chosen) else ():
        images = classifier.images(chosen.pictures[which])
        keys = [chosen.keys[int(i)] for i in which]
        for column, condition in enumerate(conditions):
            changed = changed_images(classifier, images, keys, condition, settings.seed)
            mean, deviation = explainer.posterior(changed)
            maps = [mean]
            if condition in calibrated:
                generators = sample_generators(
                    settings.seed, [f"{k}/{condition}/samples" for k in keys], images.device
                )
                maps += [
                    sample_map(mean, deviation, generators) for _ in range(settings.samples + 1)
                ]
            reference = reference_of(classifier, changed, settings)
            error = errors(classifier, changed, torch.stack(maps, dim=1), settings, reference).cpu()
            found = dict(zip(MEASURES, mean_deviation(mean, deviation), strict=True))
            if CONTROLS[0] in rows:
                found |= dict(zip(CONTROLS, doubt(reference), strict=True))
            found |= {"border": border_correlation(mean, deviation), "error": error[:, 0]}
            for measure, value in found.items():
                rows[measure][which, column] = value.double().cpu()
            if condition in calibrated:
                rows["outcomes"][which, calibrated.index(condition)] = error[:, 1:]
            progress.advance(len(which), GROUP, f"{name} {condition[0]} {condition[1] or ''}")
    return rows


def changed_images(
    classifier: FrozenClassifier,
    images: Tensor,
    keys: Sequence[str],
    condition: tuple[str, int],
    seed: int,
) -> Tensor:
    """Normalised images (B, 3, H, W) under a condition; what is random follows from each image's
    key.
    """
    if condition == CLEAN:
        return images
    generators = sample_generators(seed, [f"{key}/{condition}" for key in keys], images.device)
    return corrupt_images(images, *condition, generators, classifier.preprocessing)


def reference_of(
    classifier: FrozenClassifier, images: Tensor, settings: UncertaintySettings
) -> Tensor:
    """What the objective has to know of the images, (B, ...): log-probabilities for classes."""
    metric = LowKPerturbation(settings.percentages, settings.forward_batch_size)
    return metric.shared_scores(classifier, images, torch.zeros(len(images), dtype=torch.int64))


def errors(
    classifier: FrozenClassifier,
    images: Tensor,
    maps: Tensor,
    settings: UncertaintySettings,
    reference: Tensor | None = None,
) -> Tensor:
    """Low-k perturbation scores of D maps per image: (B, D, H, W) to float64 (B, D)."""
    if reference is None:
        reference = reference_of(classifier, images, settings)
    kl = low_k_divergences(
        classifier, images, reference, maps, settings.percentages, settings.forward_batch_size
    )
    return kl.double().mean(dim=2)


@torch.no_grad()
def figure_7(
    classifier: FrozenClassifier,
    explainer: PosteriorExplainer,
    pictures: Tensor,
    keys: Sequence[str],
    settings: UncertaintySettings,
) -> list[dict[str, Any]]:
    """Image, mean and deviation, clean and under every corruption at the highest severity.

    Returns:
        For each picture ``key`` and ``panels``: ``corruption``, ``severity``, ``picture`` uint8 (3,
            H, W), ``mean`` and
        ``deviation`` (H, W).
    """
    top = max(settings.severities, default=0)
    shown = [condition for condition in settings.conditions if condition[1] in (0, top)]
    rows: list[dict[str, Any]] = [{"key": key, "panels": []} for key in keys]
    for first in range(0, len(keys), settings.batch_size):
        here = slice(first, first + settings.batch_size)
        images = classifier.images(pictures[here])
        for condition in shown:
            changed = changed_images(classifier, images, keys[here], condition, settings.seed)
            mean, deviation = (value.float().cpu() for value in explainer.posterior(changed))
            seen = drawn(classifier.preprocessing.denormalize(changed)).cpu()
            for row, picture, m, d in zip(rows[here], seen, mean, deviation, strict=True):
                name, severity = condition
                row["panels"].append(
                    {
                        "corruption": name,
                        "severity": severity,
                        "picture": picture,
                        "mean": m,
                        "deviation": d,
                    }
                )
    return rows


def _identity(shard: Shard) -> dict[str, Any]:
    return {"name": shard.name, "count": shard.count, "bytes": shard.bytes, "sha256": shard.sha256}


def _keys(metadata: dict[str, str]) -> list[str]:
    found: list[str] = json.loads(metadata["keys"])
    return found

"""What a benchmark is to do, where its files are, and what each of them depends on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lit_iba import __version__
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.same_classes import check_same_classes
from lit_iba.data import Shard, ShardIndex
from lit_iba.data.sources import ShardSource
from lit_iba.errors import InputError
from lit_iba.evaluation.built import class_of, described, subject_of
from lit_iba.evaluation.entries import Named, class_and_settings
from lit_iba.evaluation.scoring import Scorer
from lit_iba.explainer import Explainer, Surroundings, build_explainer, explainer_class
from lit_iba.metrics import HeatmapMetric, build_metric
from lit_iba.metrics.judged import Subject
from lit_iba.resumable.identity import classifier_identity, explainer_identity, source_of
from lit_iba.resumable.progress import EXPLAIN
from lit_iba.resumable.selection import SelectedImages, Selection
from lit_iba.resumable.store import ShardStore, plain

_log = logging.getLogger(__name__)
NamedExplainers = Mapping[str, Mapping[str, Any] | Explainer | None]  # or one that is built already


def named_metrics(metrics: Named) -> dict[str, HeatmapMetric]:
    """The metrics of a config, built, by the names that they have there.

    Raises:
        InputError: An unknown name or setting.
    """
    return {
        name: build_metric(*class_and_settings("metric", name, given))
        for name, given in metrics.items()
    }


@dataclass(frozen=True)
class EvaluationPlan:
    """Explainers and metrics over a data set; the arguments are those of :class:`Benchmark`, names
    split already.
    """

    classifier: FrozenClassifier
    data: ShardIndex
    explainers: dict[str, tuple[str, dict[str, Any]]]
    metrics: dict[str, HeatmapMetric]
    out: Path
    batch_size: int
    selection: Selection
    target: Literal["label", "predicted"]
    statistics: dict[str, Any] | None  # what feature statistics are measured on
    measured: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # hashes, by explainer
    built: Mapping[str, Explainer] = field(default_factory=dict)  # those that nobody need build

    def __post_init__(self) -> None:
        check_literals(self)
        if not self.explainers:
            raise InputError(
                "no explainers are given; name at least one, such as {grad_cam: {layer: layer4}}"
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if len(self.stems) != len(set(self.stems)):
            raise InputError(
                "two shards of the data have the same file name, by which results are kept;"
                " rename one"
            )
        self._check_keys()
        if self.target == "label":
            check_same_classes(
                self.data.class_names,
                self.classifier.class_names,
                "the data",
                ", or use target: predicted",
            )
        for name, (cls, _) in self.explainers.items():
            if name not in self.built:
                explainer_class(cls)

    def _check_keys(self) -> None:
        """Shards of several folders, which were written apart, may have keys in common."""
        local = [shard for shard in self.data.shards if shard.url is None]
        if len({shard.path.parent for shard in local}) < 2:
            return
        first: dict[str, str] = {}
        for shard, places in ShardSource(tuple(local)).listing():
            for place in places:
                if first.setdefault(place.key, shard) != shard:
                    raise InputError(
                        f"{first[place.key]} and {shard} both have a sample {place.key!r}, and"
                        " scores are kept by key; give each sample a key of its own"
                    )

    @classmethod
    def from_names(cls, explainers: NamedExplainers, metrics: Named, **rest: Any) -> EvaluationPlan:
        """Build from the settings by name of a config, and from explainers that are there."""
        built = {name: found for name, found in explainers.items() if isinstance(found, Explainer)}
        return cls(
            explainers={
                name: (class_of(given), described(given))
                if isinstance(given, Explainer)
                else class_and_settings("explainer", name, given)
                for name, given in explainers.items()
            },
            metrics=named_metrics(metrics),
            built=built,
            **rest,
        )

    def build(self, name: str, surroundings: Surroundings | None) -> Explainer:
        """An explainer of the plan."""
        if name in self.built:
            return self.built[name]
        cls, settings = self.explainers[name]
        return build_explainer(cls, self.classifier, settings, surroundings)

    def subject(
        self, name: str, explainer: Explainer, surroundings: Surroundings | None
    ) -> Subject:
        """An explainer of the plan as what metrics judge."""
        if name in self.built:
            return subject_of(explainer)
        return Subject.named(explainer, *self.explainers[name], surroundings)

    @property
    def stems(self) -> list[str]:
        """What the results of each shard are called, in the data's order."""
        return [shard.stem for shard in self.data.shards]

    @cached_property
    def quotas(self) -> dict[str, int]:
        """At most so many images of each shard, by its stem."""
        counts = [shard.count for shard in self.data.shards]
        return dict(zip(self.stems, self.selection.quotas(counts), strict=True))

    def share(self, rank: int, world_size: int) -> Sequence[Shard]:
        """The shards of process ``rank``: whole ones, in turn. Where there are fewer than
        processes, the first one says so: the others would cost their time for nothing.
        """
        shards = self.data.shards
        if rank == 0 and world_size > len(shards):
            _log.warning(
                "%d of %d processes have nothing to do: a process does whole shards, and the data"
                " have %d; write them in more (shards --shard_size), or start fewer processes",
                world_size - len(shards),
                world_size,
                len(shards),
            )
        return shards[rank::world_size]

    def selected(self, shard: Shard) -> SelectedImages:
        """The images of a shard that are evaluated.

        Raises:
            InputError: Only images with a probable label are wanted, and one has no label, or one
                that the classifier does not know.
        """
        scorer = Scorer(self.classifier, self.batch_size, self.target)
        return self.selection.select(
            shard,
            self.quotas[shard.stem],
            self.classifier.preprocessing,
            lambda images: scorer.targeted(images, str(shard.path)).probabilities,
        )

    @property
    def used(self) -> set[str]:
        """Stems of the shards that give any image."""
        return {stem for stem, quota in self.quotas.items() if quota}

    def kinds(self, metrics: Iterable[str], *, explaining: bool) -> list[str]:
        """What each image goes through, by the kinds of an :class:`EvaluationProgress`: every
        explainer, when ``explaining``, and for each explainer these metrics.
        """
        explained = [f"{EXPLAIN}: {name}" for name in self.explainers] if explaining else []
        return explained + [f"{metric}: {name}" for metric in metrics for name in self.explainers]

    @property
    def compares(self) -> bool:
        """Whether a metric compares with heatmaps of other images, which must then all be there
        first.
        """
        return any(metric.others_wanted for metric in self.metrics.values())

    @property
    def heatmaps(self) -> ShardStore:
        """Heatmaps by explainer."""
        return ShardStore(self.out / "heatmaps")

    @property
    def rows(self) -> ShardStore:
        """Rows by ``<metric>/<explainer>``."""
        return ShardStore(self.out / "rows")

    def files(self, shard: Shard) -> list[Path]:
        """Every file of heatmaps and rows that a finished run has of a shard."""
        heatmaps = [self.heatmaps.path(name, shard.stem) for name in self.explainers]
        return heatmaps + [
            self.rows.path(f"{metric}/{explainer}", shard.stem)
            for metric in self.metrics
            for explainer in self.explainers
        ]

    def config(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain values."""
        sure = self.selection.min_probability
        return plain(
            {
                "lit_iba": __version__,
                "classifier": self._classifier_identity,
                "preprocessing": self.classifier.preprocessing.to_dict(),
                "data": self.data.identity(),
                "target": self.target,
                "max_images": self.selection.max_images,
                "max_box_fraction": self.selection.max_box_fraction,
                **({} if sure is None else {"min_probability": sure}),
                "seed": self.selection.seed,
                "statistics": self.statistics,
                "explainers": {
                    name: {"explainer": c, **s} for name, (c, s) in self.explainers.items()
                },
                "metrics": {name: metric.identity for name, metric in self.metrics.items()},
            }
        )

    @cached_property
    def _explainer_identities(self) -> dict[str, dict[str, Any]]:
        """Of each explainer, see :func:`explainer_identity`."""
        return {
            name: {"class": cls, "settings": settings, **source_of(type(self.built[name]))}
            if name in self.built
            else explainer_identity(cls, settings)
            for name, (cls, settings) in self.explainers.items()
        }

    @cached_property
    def _classifier_identity(self) -> dict[str, Any]:
        """See :func:`classifier_identity`."""
        return classifier_identity(self.classifier)

    def fingerprint(self, shard: Shard, explainer: str) -> dict[str, Any]:
        """What the heatmaps of a shard depend on."""
        return {
            "lit_iba": __version__,
            "classifier": self._classifier_identity,
            "preprocessing": self.classifier.preprocessing.to_dict(),
            "explainer": self._explainer_identities[explainer],
            "shard": {
                "name": shard.name,
                "count": shard.count,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                **({} if shard.label is None else {"label": asdict(shard.label)}),
            },
            "selection": self.selection.identity(self.quotas[shard.stem]),
            "target": self.target,
            "statistics": self.statistics,
            "measured": dict(self.measured.get(explainer, {})),
        }

    def row_fingerprint(self, shard: Shard, metric: str, explainer: str) -> dict[str, Any]:
        """What a metric's rows of a shard depend on."""
        judge = self.metrics[metric]
        identity = judge.identity | source_of(type(judge))
        found = {"metric": identity, "heatmaps": self.fingerprint(shard, explainer)}
        if judge.others_wanted:  # drawn from the heatmaps of all shards
            found["others"] = {
                "data": self.data.identity(),
                "max_images": self.selection.max_images,
            }
        return found

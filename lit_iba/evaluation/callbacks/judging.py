"""Explainers judged over chosen images that stay in memory, again and again while one is trained.

What does not depend on the heatmaps is computed at the first time and kept: drops behind masks, end
points of curves, the classes to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.evaluation.callbacks.chosen_images import ChosenImages
from lit_iba.evaluation.pool import HeatmapPool
from lit_iba.evaluation.processes import gathered
from lit_iba.evaluation.scoring import Scorer, SharedPasses, TargetedImages, check_target_labels
from lit_iba.metrics import HeatmapMetric, Result
from lit_iba.metrics.judged import Subject
from lit_iba.resumable.selection import SelectedImages


@dataclass(frozen=True)
class Scored:
    """One metric of one explainer: the result, and the scalars of every image by its key."""

    result: Result
    keys: list[str]
    scalars: dict[str, list[float]]


class Judging:
    """Judges explainers over the same images.

    Args:
        classifier: The network that is explained.
        metrics: By name.
        chosen: This process's images.
        batch_size: Images that are dealt with together.
        target: ``"label"`` or ``"predicted"``.
        world_size: How many processes share the images.

    Raises:
        InputError: The images have no labels or no object masks, and something needs them.
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        metrics: Mapping[str, HeatmapMetric],
        chosen: Sequence[ChosenImages],
        batch_size: int,
        target: Literal["label", "predicted"],
        world_size: int = 1,
    ) -> None:
        check_literals(Judging.__init__, locals())
        self.metrics, self.chosen, self.world_size = metrics, chosen, world_size
        self.scorer = Scorer(classifier, batch_size, target)
        self.keys, self._order = self._gathered_keys()
        self._passes: list[SharedPasses] = [{} for _ in chosen]
        self._works: list[TargetedImages] | None = None
        self._check(classifier)

    def _check(self, classifier: FrozenClassifier) -> None:
        if self.scorer.target == "label":
            for part in self.chosen:
                check_target_labels(part.images, part.source, classifier.num_classes)
        masked = any(bool(part.images.object_mask.any()) for part in self.chosen)
        if any(gathered(masked, self.world_size)):
            return
        for name, metric in self.metrics.items():
            if metric.needs_object_mask:
                raise InputError(
                    f"metric {name!r} needs object masks, but none of the {len(self.keys)} images "
                    "has one; give data with bounding boxes or masks, or leave the metric out"
                )

    def _gathered_keys(self) -> tuple[list[str], Tensor]:
        """Keys of all processes' images in their order, and where each gathered row goes."""
        mine = [
            (number, key)
            for part in self.chosen
            for number, key in zip(part.numbers, part.images.keys, strict=True)
        ]
        rows = [row for part in gathered(mine, self.world_size) for row in part]
        order = torch.tensor([number for number, _ in rows]).argsort()
        return [rows[i][1] for i in order.tolist()], order

    @property
    def works(self) -> list[TargetedImages]:
        """The images with their targets, which the classifier is asked for once."""
        if self._works is None:
            self._works = [self.scorer.targeted(part.images, part.source) for part in self.chosen]
        return self._works

    def rehearse(self, name: str, subject: Subject) -> None:
        """Explain one image and judge it by every metric, so that what cannot work fails now."""
        if not self.chosen:
            return
        images = self.chosen[0].images
        one = SelectedImages(
            images.pictures[:1], images.labels[:1], images.object_mask[:1], images.keys[:1], 0
        )
        work = self.scorer.targeted(one, self.chosen[0].source)
        values = {name: self.scorer.explain(work, name, subject.explainer).values}
        for metric_name, metric in self.metrics.items():
            others = values[name][:, None].expand(-1, metric.others_wanted, -1, -1)
            extra: dict[str, Any] = {"others": others} if metric.others_wanted else {}
            extra |= {"subject": subject} if metric.needs_subject else {}
            for _ in self.scorer.judge(
                work, metric_name, metric, values, {}, lambda *_, extra=extra: extra
            ):
                pass

    def score(self, name: str, subject: Subject) -> dict[str, Scored]:
        """Every metric of one explainer, over the images of all processes, on every process.

        Raises:
            InputError: The explainer gives NaN, or a metric cannot judge it.
        """
        explained = [self.scorer.explain(work, name, subject.explainer) for work in self.works]
        values = [found.values for found in explained]
        pool = None
        if any(metric.others_wanted for metric in self.metrics.values()):
            pool = self._pool(values)
        return {
            metric: self._score(metric, judge, name, subject, values, pool)
            for metric, judge in self.metrics.items()
        }

    def _pool(self, values: Sequence[Tensor]) -> HeatmapPool:
        mine = [
            (work.images.keys, work.source, found)
            for work, found in zip(self.works, values, strict=True)
        ]
        parts = {
            f"{source}/{rank}": (keys, found)
            for rank, shares in enumerate(gathered(mine, self.world_size))
            for keys, source, found in shares
        }
        entries = [
            (key, group, row) for group, (keys, _) in parts.items() for row, key in enumerate(keys)
        ]
        return HeatmapPool(entries, lambda group, rows: [parts[group][1][row] for row in rows])

    def _score(
        self,
        metric_name: str,
        metric: HeatmapMetric,
        name: str,
        subject: Subject,
        values: Sequence[Tensor],
        pool: HeatmapPool | None,
    ) -> Scored:
        def extra(_: str, keys: list[str]) -> dict[str, Any]:
            if metric.needs_subject:
                return {"subject": subject}
            if pool is not None and metric.others_wanted:
                return {"others": pool.draw(keys, metric.others_wanted, metric.seed)}
            return {}

        metric.reset()
        for work, found, passes in zip(self.works, values, self._passes, strict=True):
            for _, rows in self.scorer.judge(
                work, metric_name, metric, {name: found}, passes, extra
            ):
                metric.keep(rows, len(next(iter(rows.values()))))
        # torchmetrics gathers the states; in the images' order, they say the same for any number
        # of processes.
        with metric.sync_context():
            rows = {row: v.cpu()[self._order] for row, v in metric.rows().items()}
        metric.reset()
        scalars = {row: v.tolist() for row, v in metric.scores(rows).items()}
        return Scored(metric.summarize(rows), self.keys, scalars)

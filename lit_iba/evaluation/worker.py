"""The work on one shard: choose its images, explain them, judge the heatmaps, skipping what is on
disk already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_iba.data import Shard
from lit_iba.evaluation.plan import EvaluationPlan
from lit_iba.evaluation.pool import HeatmapPool
from lit_iba.evaluation.scoring import Scorer, SharedPasses, TargetedImages, opened_together
from lit_iba.explainer import Explainer, Surroundings
from lit_iba.metrics.base import HeatmapMetric
from lit_iba.resumable.progress import EXPLAIN, EvaluationProgress


class ShardWorker:
    """Does shards, one after the other.

    Args:
        plan: What is to be done.
        explainers: The plan's explainers, built.
        progress: Where it is reported.
        surroundings: Where the explainers have their statistics from.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        explainers: Mapping[str, Explainer],
        progress: EvaluationProgress,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.plan, self.explainers, self.progress = plan, explainers, progress
        self.subjects = {
            name: plan.subject(name, explainer, surroundings)
            for name, explainer in explainers.items()
        }
        self.scorer = Scorer(plan.classifier, plan.batch_size, plan.target)
        self._pools: dict[str, HeatmapPool] = {}

    def do(self, shard: Shard, *, comparing: bool = False) -> None:
        """Write the files of a shard that are missing.

        Args:
            shard: The shard.
            comparing: False explains and judges, but for the metrics that compare with heatmaps of
                other images; True does those, and needs the heatmaps of every shard.

        Raises:
            InputError: Files of other settings, images without a label, or an explainer that gives
                NaN.
        """
        metrics = [
            name
            for name, metric in self.plan.metrics.items()
            if bool(metric.others_wanted) == comparing
        ]
        unexplained, unjudged = (
            [] if comparing else self._unexplained(shard),
            self._unjudged(shard, metrics),
        )
        to_do = [f"{EXPLAIN}: {name}" for name in unexplained]
        to_do += [f"{metric}: {name}" for metric, names in unjudged.items() for name in names]
        quota = self.plan.quotas[shard.stem]
        for kind in self.plan.kinds(metrics, explaining=not comparing):
            if kind not in to_do:
                self.progress.stored(quota, kind)
        if not to_do:
            return
        images = self.plan.selected(shard)
        for kind in to_do:
            self.progress.shrink(quota - len(images), kind)
        work = self.scorer.targeted(images, str(shard.path))
        for name in unexplained:
            self._explain(work, shard, name)
        keys = Counter(
            self.plan.metrics[metric].shared_key for metric, names in unjudged.items() if names
        )
        shared: SharedPasses = {}
        for metric, names in unjudged.items():
            # A metric that needs the explainer has nothing to share, and may keep what belongs to
            # the one it judges.
            alone = self.plan.metrics[metric].needs_subject
            for together in [[name] for name in names] if alone else [names] if names else []:
                key = self.plan.metrics[metric].shared_key
                kept = shared if key is not None and keys[key] > 1 else {}
                self._judge(work, shard, metric, together, kept)

    def _unexplained(self, shard: Shard) -> list[str]:
        """Explainers without heatmaps of the shard."""
        plan = self.plan
        return [
            name
            for name in plan.explainers
            if not plan.heatmaps.complete(name, shard.stem, plan.fingerprint(shard, name))
        ]

    def _unjudged(self, shard: Shard, metrics: Iterable[str]) -> dict[str, list[str]]:
        """For each metric the explainers without rows of the shard."""
        plan = self.plan
        return {
            metric: [
                name
                for name in plan.explainers
                if not plan.rows.complete(
                    f"{metric}/{name}", shard.stem, plan.row_fingerprint(shard, metric, name)
                )
            ]
            for metric in metrics
        }

    def _extra(self, metric: HeatmapMetric, explainer: str, keys: Sequence[str]) -> dict[str, Any]:
        """What some metrics want beside the heatmaps: the explainer, or heatmaps of other
        images.
        """
        if metric.needs_subject:
            return {"subject": self.subjects[explainer]}
        if metric.others_wanted:
            return {"others": self._pool(explainer).draw(keys, metric.others_wanted, metric.seed)}
        return {}

    def _pool(self, explainer: str) -> HeatmapPool:
        if explainer not in self._pools:
            self._pools[explainer] = HeatmapPool.stored(
                self.plan.heatmaps, explainer, self.plan.stems
            )
        return self._pools[explainer]

    def _explain(self, work: TargetedImages, shard: Shard, name: str) -> None:
        self.progress.begin(f"{EXPLAIN}: {name}")
        found = self.scorer.explain(
            work,
            name,
            self.explainers[name],
            lambda images: self.progress.advance(images, f"{EXPLAIN}: {name}"),
        )
        self.plan.heatmaps.write(
            name,
            shard.stem,
            found.tensors(work),
            self.plan.fingerprint(shard, name),
            found.metadata(work),
        )

    def _judge(
        self,
        work: TargetedImages,
        shard: Shard,
        metric_name: str,
        names: list[str],
        passes: SharedPasses,
    ) -> None:
        """Rows of one metric for several explainers, and their files."""
        metric = self.plan.metrics[metric_name]
        rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in names}
        self.progress.begin(metric_name)
        with ExitStack() as stack:
            heatmaps = opened_together(
                {name: self.plan.heatmaps.opened(name, shard.stem) for name in names}, stack
            )
            extra = partial(self._extra, metric)
            for name, part in self.scorer.judge(work, metric_name, metric, heatmaps, passes, extra):
                rows[name].append(part)
                self.progress.advance(len(next(iter(part.values()))), f"{metric_name}: {name}")
        for name, parts in rows.items():
            tensors = {row: torch.cat([p[row] for p in parts]) for row in parts[0]} if parts else {}
            fingerprint = self.plan.row_fingerprint(shard, metric_name, name)
            self.plan.rows.write(
                f"{metric_name}/{name}",
                shard.stem,
                tensors,
                fingerprint,
                {"keys": work.images.keys},
            )

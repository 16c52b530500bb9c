"""The work on one shard: choose its images, explain them, judge the heatmaps, skipping what is on
disk already.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_iba.data import Shard
from lit_iba.errors import InputError
from lit_iba.evaluation.plan import EvaluationPlan
from lit_iba.evaluation.pool import HeatmapPool
from lit_iba.explainer import Explainer, Surroundings
from lit_iba.metrics.base import HeatmapMetric
from lit_iba.metrics.judged import Subject
from lit_iba.resumable.progress import EvaluationProgress
from lit_iba.resumable.selection import SelectedImages


@dataclass(frozen=True)
class TargetedShard:
    """A shard's selected images in memory, with the class to explain and its probability, each
    (N,).
    """

    shard: Shard
    images: SelectedImages
    targets: Tensor
    probabilities: Tensor


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
            name: Subject.named(explainer, *plan.explainers[name], surroundings)
            for name, explainer in explainers.items()
        }
        self.classifier = plan.classifier
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
        to_do = len(unexplained) + sum(len(names) for names in unjudged.values())
        quota = self.plan.quotas[shard.stem]
        evaluations = len(self.explainers) * (len(metrics) + (not comparing))
        self.progress.stored(quota * (evaluations - to_do))
        if not to_do:
            return
        images = self.plan.selection.select(shard, quota, self.classifier.preprocessing)
        self.progress.shrink((quota - len(images)) * to_do)
        work = TargetedShard(shard, images, *self._targets(shard, images))
        for name in unexplained:
            self._explain(work, name)
        keys = Counter(
            self.plan.metrics[metric].shared_key for metric, names in unjudged.items() if names
        )
        shared: dict[tuple[Hashable, int], Tensor] = {}
        for metric, names in unjudged.items():
            # A metric that needs the explainer has nothing to share, and may keep what belongs to
            # the one it judges.
            alone = self.plan.metrics[metric].needs_subject
            for together in [[name] for name in names] if alone else [names] if names else []:
                kept = shared if keys[self.plan.metrics[metric].shared_key] > 1 else {}
                self._judge(work, metric, together, kept)

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
            self._pools[explainer] = HeatmapPool(self.plan.heatmaps, explainer, self.plan.stems)
        return self._pools[explainer]

    def _batches(self, count: int) -> Iterator[slice]:
        size = self.plan.batch_size
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def _targets(self, shard: Shard, images: SelectedImages) -> tuple[Tensor, Tensor]:
        """Target classes, and their probabilities on the original images, each (N,)."""
        if self.plan.target == "label":
            _check_labels(shard, images, self.classifier.num_classes)
        targets, probabilities = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        for part in self._batches(len(images)):
            with torch.inference_mode():
                logits = self.classifier(self.classifier.images(images.pictures[part]))
            # Cloned outside: explainers could not take part of a tensor born in inference mode into
            # a backward pass.
            p = logits.clone().float().softmax(dim=1).cpu()
            targets.append(images.labels[part] if self.plan.target == "label" else p.argmax(dim=1))
            probabilities.append(p.gather(1, targets[-1][:, None])[:, 0])
        return torch.cat(targets), torch.cat(probabilities)

    def _explain(self, work: TargetedShard, name: str) -> None:
        explainer, images = self.explainers[name], work.images
        side = self.classifier.preprocessing.crop
        values, start = [torch.zeros(0, side, side)], time.monotonic()
        unit, signed = explainer.unit, explainer.signed
        completeness: list[Tensor] = []
        self.progress.begin(f"explain: {name}")
        for part in self._batches(len(images)):
            batch, keys = self.classifier.images(images.pictures[part]), images.keys[part]
            heatmap = explainer.attribute(batch, work.targets[part].to(batch.device), keys=keys)
            unit, signed = heatmap.unit, heatmap.signed
            values.append(heatmap.values.float().cpu())
            if heatmap.completeness is not None:
                completeness.append(heatmap.completeness.float().cpu())
            if not torch.isfinite(values[-1]).all():
                bad = [
                    key
                    for key, v in zip(keys, values[-1], strict=True)
                    if not torch.isfinite(v).all()
                ]
                raise InputError(
                    f"explainer {name!r} gave NaN or infinity for {', '.join(bad[:5])} of"
                    f" {work.shard.path}; check its settings, statistics or checkpoint"
                )
            self.progress.advance(len(heatmap), f"explain: {name}")
        metadata = {
            "keys": images.keys,
            "unit": unit,
            "signed": "1" if signed else "0",
            "corrupt": images.corrupt,
            "seconds": time.monotonic() - start,
        }
        tensors = {
            "values": torch.cat(values),
            "targets": work.targets,
            "probabilities": work.probabilities,
        }
        if completeness:
            tensors["completeness"] = torch.cat(completeness)
        fingerprint = self.plan.fingerprint(work.shard, name)
        self.plan.heatmaps.write(name, work.shard.stem, tensors, fingerprint, metadata)

    def _judge(
        self,
        work: TargetedShard,
        metric_name: str,
        names: list[str],
        kept: dict[tuple[Hashable, int], Tensor],
    ) -> None:
        """Rows of one metric for several explainers, with the passes that they can share made once.

        ``kept`` holds what metrics share, by what it depends on and the first image of the batch.
        """
        metric, stem = self.plan.metrics[metric_name].to(self.classifier.device), work.shard.stem
        rows: dict[str, list[dict[str, Tensor]]] = {name: [] for name in names}
        self.progress.begin(metric_name)
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(self.plan.heatmaps.opened(name, stem)) for name in names
            }
            for part in self._batches(len(work.images)):
                images = self.classifier.images(work.images.pictures[part])
                targets, keys = work.targets[part].to(images.device), work.images.keys[part]
                mask = work.images.object_mask[part]
                shared = (
                    kept.get((metric.shared_key, part.start))
                    if metric.shared_key is not None
                    else None
                )
                if shared is None:
                    shared = metric.shared_scores(self.classifier, images, targets)
                if metric.shared_key is not None and shared is not None:
                    kept[metric.shared_key, part.start] = shared
                for name, file in files.items():
                    heatmaps = file.get_slice("values")[part.start : part.stop]
                    metric.reset()
                    metric.update(
                        self.classifier,
                        images,
                        targets,
                        heatmaps,
                        object_mask=mask,
                        keys=keys,
                        shared=shared,
                        **self._extra(metric, name, keys),
                    )
                    rows[name].append({row: values.cpu() for row, values in metric.rows().items()})
                    self.progress.advance(len(keys), f"{metric_name}: {name}")
        for name, parts in rows.items():
            tensors = {row: torch.cat([p[row] for p in parts]) for row in parts[0]} if parts else {}
            fingerprint = self.plan.row_fingerprint(work.shard, metric_name, name)
            self.plan.rows.write(
                f"{metric_name}/{name}", stem, tensors, fingerprint, {"keys": work.images.keys}
            )


def _check_labels(shard: Shard, images: SelectedImages, num_classes: int) -> None:
    for key, label in zip(images.keys, images.labels.tolist(), strict=True):
        if label < 0:
            raise InputError(
                f"sample {key!r} of {shard.path} has no label; add .cls members or use target:"
                " predicted"
            )
        if label >= num_classes:
            raise InputError(
                f"sample {key!r} of {shard.path} has label {label}, but the classifier knows"
                f" 0..{num_classes - 1}; give data with the classifier's classes, or use target:"
                " predicted"
            )

"""The one way in which heatmaps are made and judged: images in memory in, heatmaps and rows out.

The benchmark does it shard by shard and writes files (``worker.py``); the callbacks do it with what
a Trainer holds (``callbacks/``). Both get the same numbers, because both are this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lit_iba.checks import check_finite, check_labels, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.explainer import Explainer
from lit_iba.heatmap import Heatmap
from lit_iba.metrics.base import HeatmapMetric
from lit_iba.objectives.classes import Classification
from lit_iba.resumable.selection import SelectedImages

SharedPasses = MutableMapping[tuple[Hashable, int], Tensor]


class Rows(Protocol):
    """Heatmaps (N, H, W) of which parts are taken: a tensor, or a slice of a file."""

    def __getitem__(self, part: slice) -> Tensor:
        """Those of some images."""
        ...


@dataclass(frozen=True)
class TargetedImages:
    """Images with the class to explain and its probability, each (N,).

    Args:
        images: The images.
        targets: int64 (N,), or what the classifier's objective has in their place, (N, ...).
        probabilities: Of the targets, on the images as they are, (N,).
        source: Where the images are from, for messages.
        agrees: Whether the classifier itself finds the target most probable, bool (N,); None where
            it is asked for something else than a class.
    """

    images: SelectedImages
    targets: Tensor
    probabilities: Tensor
    source: str
    agrees: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


class Explained:
    """Heatmaps of one explainer as they come, batch by batch, and what a store keeps of them.

    Args:
        name: Of the explainer, for messages.
        explainer: It says what its values mean, should there be no image.
        size: (H, W) of the pictures, in pixels.
        source: Where the images are from, for messages.
    """

    def __init__(self, name: str, explainer: Explainer, size: Sequence[int], source: str) -> None:
        self.name, self.source = name, source
        self.unit, self.signed = explainer.unit, explainer.signed
        self.trained_with = dict(getattr(explainer, "trained_with", {}))
        self._values, self._completeness = [torch.zeros(0, *size)], list[Tensor]()
        self.start = time.monotonic()

    def add(self, heatmap: Heatmap, keys: list[str]) -> None:
        """Take a batch.

        Raises:
            InputError: A value is NaN or infinite.
        """
        self.unit, self.signed = heatmap.unit, heatmap.signed
        values = heatmap.values.float().cpu()
        check_finite(values, keys, f"explainer {self.name!r}", f" of {self.source}")
        self._values.append(values)
        if heatmap.completeness is not None:
            self._completeness.append(heatmap.completeness.float().cpu())

    @property
    def values(self) -> Tensor:
        """All heatmaps so far, float32 (N, H, W), on the CPU."""
        return torch.cat(self._values)

    def tensors(self, work: TargetedImages) -> dict[str, Tensor]:
        """What a store keeps, each with one entry per image."""
        found = {
            "values": self.values,
            "targets": work.targets,
            "probabilities": work.probabilities,
        }
        if self._completeness:
            found["completeness"] = torch.cat(self._completeness)
        if work.agrees is not None:
            found["agrees"] = work.agrees
        return found

    def metadata(self, work: TargetedImages) -> dict[str, Any]:
        """What a store notes beside them."""
        return {
            "keys": work.images.keys,
            "unit": self.unit,
            "signed": "1" if self.signed else "0",
            "trained_with": self.trained_with,
            "corrupt": work.images.corrupt,
            "unsure": work.images.unsure,
            "seconds": time.monotonic() - self.start,
        }


class Scorer:
    """Explains and judges images in memory.

    Args:
        classifier: The network that is explained.
        batch_size: Images that are dealt with together.
        target: ``"label"``, or ``"predicted"`` for the class that the classifier finds most
            probable.
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        batch_size: int,
        target: Literal["label", "predicted"],
    ) -> None:
        check_literals(Scorer.__init__, locals())
        self.classifier, self.batch_size, self.target = classifier, batch_size, target

    def batches(self, count: int) -> Iterator[slice]:
        """Which images are dealt with together."""
        size = self.batch_size
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def targeted(self, images: SelectedImages, source: str) -> TargetedImages:
        """The images with their target classes and the targets' probabilities.

        Raises:
            InputError: A label is wanted and missing, or is none of the classifier's classes.
        """
        objective = self.classifier.objective
        if self.target == "label":
            check_target_labels(images, source, self.classifier.num_classes)
        targets, probabilities, agrees = list[Tensor](), list[Tensor](), list[Tensor]()
        for part in self.batches(len(images)):
            with torch.inference_mode():
                outputs = self.classifier(self.classifier.images(images.pictures[part]))
            # Cloned outside: explainers could not take part of a tensor born in inference mode into
            # a backward pass.
            outputs = outputs.clone()
            asked = (
                objective.of_labels(images.labels[part]).to(outputs.device)
                if self.target == "label"
                else objective.predicted(outputs)
            )
            targets.append(asked.cpu())
            probabilities.append(objective.probability(outputs, asked).cpu())
            if isinstance(objective, Classification):
                agrees.append((objective.predicted(outputs) == asked).cpu())
        if not targets:
            return TargetedImages(images, images.labels, torch.zeros(0), source)
        return TargetedImages(
            images,
            torch.cat(targets),
            torch.cat(probabilities),
            source,
            torch.cat(agrees) if agrees else None,
        )

    def explained(self, work: TargetedImages, name: str, explainer: Explainer) -> Explained:
        """Where the heatmaps of these images are to be gathered."""
        return Explained(name, explainer, work.images.pictures.shape[-2:], work.source)

    def explain(
        self,
        work: TargetedImages,
        name: str,
        explainer: Explainer,
        advance: Callable[[int], object] = lambda images: None,
    ) -> Explained:
        """The heatmaps of images; ``advance`` is told of every batch's number of images.

        Raises:
            InputError: The explainer gives NaN.
        """
        found = self.explained(work, name, explainer)
        for part in self.batches(len(work)):
            batch, keys = (
                self.classifier.images(work.images.pictures[part]),
                work.images.keys[part],
            )
            targets = work.targets[part].to(batch.device)
            found.add(explainer.attribute(batch, targets, keys=keys), keys)
            advance(len(keys))
        return found

    def judge(
        self,
        work: TargetedImages,
        name: str,
        metric: HeatmapMetric,
        heatmaps: Mapping[str, Rows],
        passes: SharedPasses,
        extra: Callable[[str, list[str]], dict[str, Any]] = lambda explainer, keys: {},
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Rows of one metric for several explainers, batch by batch, with the passes that they can
        share made once.

        Args:
            work: What was explained.
            name: Of the metric.
            metric: It judges.
            heatmaps: Of every explainer, (N, H, W).
            passes: What does not depend on heatmaps, by what it depends on and the first image of
                the batch; what is missing is added.
            extra: What the metric wants beside, given the explainer's name and the samples' keys.

        Yields:
            The explainer's name, and its rows of a batch, float32 on the CPU.
        """
        key = passes_key(name, metric)
        metric.to(self.classifier.device)
        for part in self.batches(len(work)):
            images = self.classifier.images(work.images.pictures[part])
            targets, keys = work.targets[part].to(images.device), work.images.keys[part]
            shared = passes.get((key, part.start))
            if shared is None:
                shared = metric.shared_scores(self.classifier, images, targets)
            if shared is not None:
                passes[key, part.start] = shared
            for explainer, values in heatmaps.items():
                rows = metric.judge(
                    self.classifier,
                    images,
                    targets,
                    values[part],
                    object_mask=work.images.object_mask[part],
                    keys=keys,
                    shared=shared,
                    **extra(explainer, keys),
                )
                yield explainer, {row: v.detach().float().cpu().clone() for row, v in rows.items()}


def passes_key(name: str, metric: HeatmapMetric) -> Hashable:
    """Under what a metric's passes are kept: what it shares with others, or its own name, which may
    be the word that others share by.
    """
    shared = metric.shared_key
    return ("of one metric", name) if shared is None else ("shared", shared)


def opened_together(
    files: Mapping[str, AbstractContextManager[Any]], stack: ExitStack
) -> dict[str, Rows]:
    """The heatmaps of several files of a store, open until the stack is left."""
    return {name: stack.enter_context(file).get_slice("values") for name, file in files.items()}


def check_target_labels(images: SelectedImages, source: str, classes: int) -> None:
    """Refuse images whose label is to be explained and is none, or none of the classifier's.

    Raises:
        InputError: One has none, or another.
    """
    mend = ", or use target: predicted"
    check_labels(images.labels, images.keys, classes, f" of {source}", mend)

"""Metrics that need the explainer itself, not only its stored heatmaps: to time it, to look inside,
to build it anew.

They stand among the other metrics, and keep rows as these do; what is more is the ``subject`` given
to :meth:`update`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer, Surroundings, build_explainer
from lit_iba.metrics.base import HeatmapMetric


@dataclass(frozen=True)
class Subject:
    """The explainer that is judged, and how to build it for another classifier.

    Args:
        explainer: It made the heatmaps.
        build: From a classifier, and where its statistics come from, to the same explainer of that
            classifier.
        surroundings: Where the explainer's own statistics came from.

    Example:
        >>> from lit_iba import build_explainer
        >>> from lit_iba.metrics import Subject
        >>> explainer = build_explainer("smoothgrad", classifier, {"samples": 4})
        >>> subject = Subject.named(explainer, "smoothgrad", {"samples": 4})
        >>> subject.build(classifier, None) is explainer  # the same kind, built again
        False
    """

    explainer: Explainer
    build: Callable[[FrozenClassifier, Surroundings | None], Explainer]
    surroundings: Surroundings | None = None

    @classmethod
    def named(
        cls,
        explainer: Explainer,
        name: str,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> Subject:
        """An explainer that :func:`build_explainer` made of a name and settings."""
        return cls(
            explainer,
            lambda classifier, found: build_explainer(name, classifier, settings, found),
            surroundings,
        )


class ExplainerMetric(HeatmapMetric):
    """A metric whose :meth:`update` takes a ``subject``; subclasses write :meth:`subject_rows` and
    :meth:`summarize`.

    Example:
        >>> from lit_iba.metrics import ExplainerMetric, Latency, SanityCheck
        >>> issubclass(SanityCheck, ExplainerMetric), issubclass(Latency, ExplainerMetric)
        (True, True)
    """

    @abstractmethod
    def subject_rows(
        self,
        subject: Subject,
        images: Tensor,
        targets: Tensor,
        heatmaps: Tensor,
        keys: Sequence[str] | None,
    ) -> dict[str, Tensor]:
        """The rows of a checked batch, each (B,) or (B, K); outside inference mode, so that
        gradients can be taken.
        """

    def update(
        self,
        classifier: FrozenClassifier,
        images: Tensor,
        targets: Tensor,
        heatmaps: Tensor,
        *,
        object_mask: Tensor | None = None,
        keys: Sequence[str] | None = None,
        shared: Tensor | None = None,
        others: Tensor | None = None,
        subject: Subject | None = None,
    ) -> None:
        """Judge a batch; see :meth:`HeatmapMetric.update`.

        Args:
            classifier: The frozen classifier.
            images: Normalised images (B, 3, H, W).
            targets: Class that each heatmap explains, int64 (B,).
            heatmaps: Attribution (B, H, W), made by the subject.
            object_mask: Unused.
            keys: Names of the samples, from which the explainer's random numbers follow.
            shared, others: Unused.
            subject: The explainer that made the heatmaps.

        Raises:
            InputError: There is no subject; or as :meth:`HeatmapMetric.update`.
        """
        if subject is None:
            raise InputError(
                f"{self.name} judges the explainer itself; give update its subject=Subject(explainer, ...)"
            )
        self._given = subject, keys
        try:
            super().update(
                classifier, images, targets, heatmaps, object_mask=object_mask, keys=keys
            )
        finally:
            del self._given

    def score_rows(
        self,
        classifier: FrozenClassifier,
        images: Tensor,
        targets: Tensor,
        heatmaps: Tensor,
        object_mask: Tensor | None,
        shared: Tensor | None,
    ) -> dict[str, Tensor]:
        """The rows of :meth:`subject_rows`."""
        subject, keys = self._given
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
        ):  # update() and torchmetrics have switched gradients off
            return self.subject_rows(subject, images, targets, heatmaps, keys)

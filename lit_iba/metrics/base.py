"""What every heatmap metric is: numbers per image in, a mean with its standard error out.

A metric keeps *rows*, one per image, and its result is a pure function of them. So results can be
computed again from stored rows, on any number of processes, and paired tests between explainers
have the numbers they need.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_iba.checks import check_counts, check_images, check_rows
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.judged import (
    Judged,
    Subject,
    check_heatmaps,
    check_object_mask,
    check_others,
)
from lit_iba.objectives import Classification, Objective
from lit_iba.perturbation import in_double

Curve = dict[str, list[float]]


@dataclass
class Result:
    """A metric over a data set.

    Args:
        score: The number that goes into the table.
        standard_error: Of the score, over images; NaN for fewer than two.
        n: Number of images that entered the score.
        extra: Further scalars by name.
        curves: By name, lists ``x``, ``y`` and ``se`` (standard error of y over images) of equal
            length.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.

    Example:
        >>> from lit_iba.metrics import Result
        >>> result = Result(score=0.5, standard_error=0.1, n=20)
        >>> result.to_dict()["score"]
        0.5
    """

    score: float
    standard_error: float
    n: int
    extra: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, for JSON."""
        return asdict(self)


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension and its standard error s / sqrt(N), with the unbiased s; NaN
    where undefined.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import mean_and_error
        >>> mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> float(mean), round(float(error), 3)
        (2.5, 0.645)
    """
    values = in_double(values)
    unknown = torch.full_like(values.sum(dim=0), torch.nan)
    mean = values.mean(dim=0) if len(values) else unknown
    return mean, values.std(dim=0) / math.sqrt(len(values)) if len(values) > 1 else unknown


def curve(x: Tensor, y: Tensor) -> Curve:
    """The mean of curves (N, K) over images, at x (K,), with standard errors.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import curve
        >>> found = curve(torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 3.0], [2.0, 5.0]]))
        >>> found["x"], found["y"]
        ([0.0, 1.0], [1.5, 4.0])
    """
    mean, error = mean_and_error(y)
    return {"x": x.tolist(), "y": mean.tolist(), "se": error.tolist()}


class HeatmapMetric(Metric):
    """Judges heatmaps.

    Subclasses name their rows in ``scalars`` and ``row_curves`` and write :meth:`score_rows` and
    :meth:`summarize`.

    Args:
        settings: The metric's own settings, for the record and for telling results apart.

    Example:
        >>> import torch
        >>> from lit_iba import HeatmapMetric
        >>> from lit_iba.metrics import Result, mean_and_error
        >>> class Spread(HeatmapMetric):
        ...     name, scalars = "spread", ("score",)
        ...     definition = "standard deviation of the map"
        ...     def score_rows(self, classifier, judged):
        ...         return {"score": judged.heatmaps.flatten(1).std(dim=1)}
        ...     def summarize(self, rows):
        ...         mean, error = mean_and_error(rows["score"])
        ...         return Result(float(mean), float(error), len(rows["score"]))
        >>> metric = Spread({})
        >>> metric.update(classifier, images, targets, torch.ones(2, 64, 64))
        >>> metric.compute().score
        0.0
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""  # how it is called in print
    lengths: ClassVar[tuple[str, ...]] = ()  # settings in pixels whose defaults are for 224 a side
    better: ClassVar[str] = "higher"
    scalars: ClassVar[tuple[str, ...]] = ()  # rows of shape (N,)
    row_curves: ClassVar[tuple[str, ...]] = ()  # rows of shape (N, K)
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    needs_object_mask: ClassVar[bool] = False
    needs_subject: ClassVar[bool] = False  # the explainer itself: to time it, to build it again
    less_other_maps: ClassVar[bool] = False  # whether the score is less that of other images' maps
    others_wanted: int = (
        0  # heatmaps of other images, by the same explainer, that each image is compared with
    )
    seed: int = 0  # of whatever is drawn
    objective: Objective = Classification()  # what the classifier is asked, for the definition

    images_seen: Tensor
    is_differentiable = False
    full_state_update = False

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        check_counts(0, seed=settings.get("seed", 0))
        self.settings = settings
        for row in (*self.scalars, *self.row_curves):
            self.add_state(row, default=[], dist_reduce_fx="cat")
        self.add_state(
            "images_seen", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum"
        )

    @property
    @abstractmethod
    def definition(self) -> str:
        """One sentence that says exactly what is computed, with every setting, of the objective
        of the classifier that was judged last.
        """

    @property
    def identity(self) -> dict[str, Any]:
        """What the rows depend on: the class and its settings, less those that only decide
        speed.
        """
        settings = {k: v for k, v in self.settings.items() if k != "forward_batch_size"}
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", "settings": settings}

    @property
    def shared_key(self) -> Hashable:
        """What :meth:`shared_scores` depends on beside the images; metrics of equal keys share.
        None: nobody else.
        """
        return None

    def shared_scores(
        self, classifier: FrozenClassifier, images: Tensor, targets: Tensor
    ) -> Tensor | None:
        """What the classifier says about the images whatever the heatmaps, (B, ...); None if there
        is nothing.

        Pass it to :meth:`update` as ``shared`` to judge several explainers at the price of one.
        """
        return None

    @abstractmethod
    def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> dict[str, Tensor]:
        """The rows of a checked batch, each (B,) or (B, K).

        No gradients are kept while it runs, unless the metric needs the subject: an explainer
        takes gradients of its own.
        """

    @abstractmethod
    def summarize(self, rows: dict[str, Tensor]) -> Result:
        """The result that follows from rows, and from nothing else."""

    def scores(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars per image, each (N,); the mean of ``score`` over images (NaN left out) is the
        result's score.
        """
        return {row: rows[row] for row in self.scalars}

    def judge(
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
    ) -> dict[str, Tensor]:
        """The rows of a batch, which the metric does not keep; :meth:`update` keeps them.

        Args:
            classifier: The frozen classifier.
            images: Normalised images (B, C, H, W).
            targets: What each heatmap explains: a class, int64 (B,), or whatever the classifier's
                objective asks for.
            heatmaps: Attribution (B, H, W).
            object_mask: Which pixels belong to the object, bool (B, H, W).
            keys: Names of the samples, for error messages and for an explainer's random numbers.
            shared: What :meth:`shared_scores` gave for the same images and targets; computed here
                where it is missing.
            others: Heatmaps of other images, by the same explainer, (B, ``others_wanted``, H, W),
                for the metrics that compare with some.
            subject: The explainer that made the heatmaps, for the metrics with ``needs_subject``.

        Returns:
            The metric's rows, each (B,) or (B, K).

        Raises:
            InputError: Shapes that do not fit, NaN, or something that the metric needs and was not
                given.
        """
        self.objective = classifier.objective
        images = check_images(images, classifier.channels).to(classifier.dtype)
        targets = classifier.targets(images, targets)
        heatmaps = check_heatmaps(heatmaps, images, keys).to(images.device)
        object_mask = check_object_mask(object_mask, images, self.needs_object_mask and self.name)
        if self.others_wanted:
            others = check_others(others, heatmaps, self.others_wanted, self.name)
        if self.needs_subject and subject is None:
            raise InputError(
                f"{self.name} judges the explainer itself; "
                "give update its subject=Subject(explainer, ...)"
            )
        # torchmetrics has switched gradients off; an explainer takes some.
        with (
            classifier.undisturbed(),
            torch.inference_mode(not self.needs_subject),
            torch.set_grad_enabled(self.needs_subject),
        ):
            if shared is None:
                shared = self.shared_scores(classifier, images, targets)
            judged = Judged(images, targets, heatmaps, object_mask, keys, shared, others, subject)
            rows = self.score_rows(classifier, judged)
        check_rows(rows, self.scalars, self.row_curves, len(images), self.name)
        return rows

    def update(
        self,
        classifier: FrozenClassifier,
        images: Tensor,
        targets: Tensor,
        heatmaps: Tensor,
        **given: Any,
    ) -> None:
        """Judge a batch and keep its rows; arguments as of :meth:`judge`."""
        self.keep(self.judge(classifier, images, targets, heatmaps, **given), len(images))

    def keep(self, rows: dict[str, Tensor], count: int) -> None:
        """Keep the rows that :meth:`judge` gave of so many images."""
        for row in (*self.scalars, *self.row_curves):
            # States are one-dimensional, so that a process that saw no image can still take part in
            # gathering them; the clone, made outside inference mode, is an ordinary tensor.
            getattr(self, row).append(rows[row].detach().float().flatten().to(self.device).clone())
        self.images_seen += count

    def rows(self) -> dict[str, Tensor]:
        """The rows of every image since the last reset, float32: (N,) for scalars, (N, K) for
        curves.
        """
        count = int(self.images_seen)
        flat = {row: getattr(self, row) for row in (*self.scalars, *self.row_curves)}
        found = {
            row: dim_zero_cat(parts) if len(parts) else torch.zeros(0)
            for row, parts in flat.items()
        }
        return {
            row: (
                values
                if row in self.scalars
                else values.reshape(count, len(values) // max(count, 1))
            )
            for row, values in found.items()
        }

    def compute(self) -> Result:
        """The result over all images seen, on all processes."""
        return self.summarize(self.rows())

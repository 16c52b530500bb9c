"""The metrics by name. Who only writes their names, such as a page, does not import them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_iba.checks import check_taken
from lit_iba.errors import InputError, unknown_name
from lit_iba.registry import class_named

if TYPE_CHECKING:
    from lit_iba.metrics.base import HeatmapMetric

METRICS: dict[str, str] = {
    "degradation": "lit_iba.metrics.Degradation",
    "bounding_box": "lit_iba.metrics.BoundingBox",
    "sensitivity_n": "lit_iba.metrics.SensitivityN",
    "insertion": "lit_iba.metrics.Insertion",
    "deletion": "lit_iba.metrics.Deletion",
    "ehr": "lit_iba.metrics.EffectiveHeatRatio",
    "low_k_perturbation": "lit_iba.metrics.LowKPerturbation",
    "decision_flip": "lit_iba.metrics.DecisionFlip",
    "sanity_check": "lit_iba.metrics.SanityCheck",
    "latency": "lit_iba.metrics.Latency",
    "bits_and_accuracy": "lit_iba.iba.BitsAndAccuracy",
}


def metric_class(name: str) -> type[HeatmapMetric]:
    """The class behind a registered name, or behind a dotted path to a class of the user's own.

    Raises:
        InputError: No such name; the nearest ones are listed.

    Example:
        >>> from lit_iba.metrics import metric_class
        >>> metric_class("bounding_box").__name__
        'BoundingBox'
    """
    from lit_iba.metrics.base import HeatmapMetric  # torchmetrics takes seconds to import

    return class_named(name, "metric", METRICS, HeatmapMetric)  # type: ignore[type-abstract] # only to compare with


def build_metric(name: str, settings: dict[str, Any] | None = None) -> HeatmapMetric:
    """Build a metric by name.

    Args:
        name: A key of ``METRICS``, or a dotted class path.
        settings: Keyword arguments of the metric; ``preset: reference`` stands for those of the
            authors' code, and settings given beside it win.

    Raises:
        InputError: Unknown name, preset or setting.

    Example:
        >>> from lit_iba.metrics import build_metric
        >>> build_metric("degradation", {"tile": 14}).identity["settings"]["tile"]
        14
    """
    cls = metric_class(name)
    settings = dict(settings or {})
    check_taken(cls.__init__, settings, name, also=["preset"] if cls.presets else [])
    preset = settings.pop("preset", None)
    if preset is not None:
        if preset not in cls.presets:
            raise unknown_name(f"preset of {name}", str(preset), cls.presets)
        settings = cls.presets[preset] | settings
    try:
        return cls(**settings)
    except TypeError as error:
        raise InputError(f"the settings {settings} do not fit metric {name!r}: {error}") from error

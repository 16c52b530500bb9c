"""Metrics of heatmaps: torchmetrics classes over pure functions, one file a family
(docs/metrics.md).
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.metrics.base import HeatmapMetric as HeatmapMetric
    from lit_iba.metrics.base import Result as Result
    from lit_iba.metrics.base import curve as curve
    from lit_iba.metrics.base import mean_and_error as mean_and_error
    from lit_iba.metrics.bounding_box import BoundingBox as BoundingBox
    from lit_iba.metrics.decision_flip import DecisionFlip as DecisionFlip
    from lit_iba.metrics.degradation import Degradation as Degradation
    from lit_iba.metrics.effective_heat_ratio import EffectiveHeatRatio as EffectiveHeatRatio
    from lit_iba.metrics.insertion_deletion import Deletion as Deletion
    from lit_iba.metrics.insertion_deletion import Insertion as Insertion
    from lit_iba.metrics.judged import Judged as Judged
    from lit_iba.metrics.judged import Subject as Subject
    from lit_iba.metrics.latency import Latency as Latency
    from lit_iba.metrics.low_k_perturbation import LowKPerturbation as LowKPerturbation
    from lit_iba.metrics.registered import build_metric as build_metric
    from lit_iba.metrics.registered import metric_class as metric_class
    from lit_iba.metrics.sanity_check import SanityCheck as SanityCheck
    from lit_iba.metrics.sensitivity_n import SensitivityN as SensitivityN
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.metrics.base": [
                "HeatmapMetric",
                "Result",
                "curve",
                "mean_and_error",
            ],
            "lit_iba.metrics.bounding_box": ["BoundingBox"],
            "lit_iba.metrics.decision_flip": ["DecisionFlip"],
            "lit_iba.metrics.degradation": ["Degradation"],
            "lit_iba.metrics.effective_heat_ratio": ["EffectiveHeatRatio"],
            "lit_iba.metrics.judged": ["Judged", "Subject"],
            "lit_iba.metrics.insertion_deletion": ["Deletion", "Insertion"],
            "lit_iba.metrics.latency": ["Latency"],
            "lit_iba.metrics.low_k_perturbation": ["LowKPerturbation"],
            "lit_iba.metrics.registered": ["build_metric", "metric_class"],
            "lit_iba.metrics.sanity_check": ["SanityCheck"],
            "lit_iba.metrics.sensitivity_n": ["SensitivityN"],
        },
    )

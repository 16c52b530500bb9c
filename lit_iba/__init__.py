"""Which pixels a classifier used, in bits: information-bottleneck attribution with PyTorch
Lightning.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_iba.classifier import FrozenClassifier as FrozenClassifier
    from lit_iba.classifier import Preprocessing as Preprocessing
    from lit_iba.errors import InputError as InputError
    from lit_iba.evaluation import Benchmark as Benchmark
    from lit_iba.explainer import Attribution as Attribution
    from lit_iba.explainer import Explainer as Explainer
    from lit_iba.explainer import build_explainer as build_explainer
    from lit_iba.heatmap import Heatmap as Heatmap
    from lit_iba.iba import PerSampleIBA as PerSampleIBA
    from lit_iba.iba import ReadoutIBA as ReadoutIBA
    from lit_iba.input_iba import InputIBA as InputIBA
    from lit_iba.input_iba import ReadoutInputIBA as ReadoutInputIBA
    from lit_iba.metrics import HeatmapMetric as HeatmapMetric
    from lit_iba.statistics import FeatureStatistics as FeatureStatistics
    from lit_iba.varsal import VarSal as VarSal
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.classifier": ["FrozenClassifier", "Preprocessing"],
            "lit_iba.errors": ["InputError"],
            "lit_iba.evaluation": ["Benchmark"],
            "lit_iba.explainer": ["Attribution", "Explainer", "build_explainer"],
            "lit_iba.heatmap": ["Heatmap"],
            "lit_iba.iba": ["PerSampleIBA", "ReadoutIBA"],
            "lit_iba.input_iba": ["InputIBA", "ReadoutInputIBA"],
            "lit_iba.metrics": ["HeatmapMetric"],
            "lit_iba.statistics": ["FeatureStatistics"],
            "lit_iba.varsal": ["VarSal"],
        },
    )

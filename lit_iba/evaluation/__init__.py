"""Evaluation: heatmaps of a whole data set on disk, and metrics computed from them, shard by shard
and resumable.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.evaluation.benchmark import Benchmark as Benchmark
    from lit_iba.evaluation.callbacks.evaluation_metrics import (
        EvaluationMetrics as EvaluationMetrics,
    )
    from lit_iba.evaluation.callbacks.explainer_module import ExplainerModule as ExplainerModule
    from lit_iba.evaluation.callbacks.heatmap_writer import HeatmapWriter as HeatmapWriter
    from lit_iba.evaluation.results import summary_table as summary_table
    from lit_iba.evaluation.roar import Roar as Roar
    from lit_iba.evaluation.roar_training import Recipe as Recipe
    from lit_iba.evaluation.surroundings import OwnStatistics as OwnStatistics
    from lit_iba.evaluation.surroundings import StoredStatistics as StoredStatistics
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.evaluation.benchmark": ["Benchmark"],
            "lit_iba.evaluation.callbacks.evaluation_metrics": ["EvaluationMetrics"],
            "lit_iba.evaluation.callbacks.explainer_module": ["ExplainerModule"],
            "lit_iba.evaluation.callbacks.heatmap_writer": ["HeatmapWriter"],
            "lit_iba.evaluation.results": ["summary_table"],
            "lit_iba.evaluation.roar": ["Roar"],
            "lit_iba.evaluation.roar_training": ["Recipe"],
            "lit_iba.evaluation.surroundings": ["OwnStatistics", "StoredStatistics"],
        },
    )

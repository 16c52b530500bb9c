"""Evaluation: heatmaps of a whole data set on disk, and metrics computed from them, shard by shard and resumable.

Names are imported on first use, so that reading stored results does not load Lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_iba.evaluation.benchmark import Benchmark
    from lit_iba.evaluation.results import summary_table
    from lit_iba.evaluation.selection import Selection
    from lit_iba.evaluation.store import ShardStore
    from lit_iba.evaluation.surroundings import StoredStatistics

_HOMES = {
    "Benchmark": "lit_iba.evaluation.benchmark",
    "Selection": "lit_iba.evaluation.selection",
    "ShardStore": "lit_iba.evaluation.store",
    "StoredStatistics": "lit_iba.evaluation.surroundings",
    "summary_table": "lit_iba.evaluation.results",
}
__all__ = ["Benchmark", "Selection", "ShardStore", "StoredStatistics", "summary_table"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Which pixels a classifier used, in bits: information-bottleneck attribution with PyTorch Lightning.

The names below are imported when they are first used, so that ``import lit_iba`` and ``lit-iba --help`` stay fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_iba.classifier import FrozenClassifier
    from lit_iba.classifier.preprocessing import Preprocessing
    from lit_iba.errors import InputError
    from lit_iba.explainer import Explainer, build_explainer
    from lit_iba.heatmap import Heatmap
    from lit_iba.iba.per_sample import PerSampleIBA
    from lit_iba.iba.readout import ReadoutIBA
    from lit_iba.statistics import FeatureStatistics

__version__ = "0.1.0"
_HOMES = {
    "FrozenClassifier": "lit_iba.classifier",
    "InputError": "lit_iba.errors",
    "Explainer": "lit_iba.explainer",
    "build_explainer": "lit_iba.explainer",
    "Heatmap": "lit_iba.heatmap",
    "PerSampleIBA": "lit_iba.iba.per_sample",
    "ReadoutIBA": "lit_iba.iba.readout",
    "Preprocessing": "lit_iba.classifier.preprocessing",
    "FeatureStatistics": "lit_iba.statistics",
}
__all__ = [
    "Explainer",
    "FeatureStatistics",
    "FrozenClassifier",
    "Heatmap",
    "InputError",
    "PerSampleIBA",
    "Preprocessing",
    "ReadoutIBA",
    "build_explainer",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lit_iba' has no attribute {name!r}")

"""What is asked of a network: a class, labels, a number, a region, a vector, or a function of the
user's own (docs/objectives.md).
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.objectives.base import Objective as Objective
    from lit_iba.objectives.base import build_objective as build_objective
    from lit_iba.objectives.classes import Classification as Classification
    from lit_iba.objectives.classes import Multilabel as Multilabel
    from lit_iba.objectives.custom import Custom as Custom
    from lit_iba.objectives.regression import Regression as Regression
    from lit_iba.objectives.segmentation import Segmentation as Segmentation
    from lit_iba.objectives.vectors import Embedding as Embedding
    from lit_iba.objectives.vectors import Similarity as Similarity
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.objectives.base": ["Objective", "build_objective"],
            "lit_iba.objectives.classes": ["Classification", "Multilabel"],
            "lit_iba.objectives.custom": ["Custom"],
            "lit_iba.objectives.regression": ["Regression"],
            "lit_iba.objectives.segmentation": ["Segmentation"],
            "lit_iba.objectives.vectors": ["Embedding", "Similarity"],
        },
    )

"""Training around a frozen classifier: what its checkpoints hold, how explainers come back from
them, the callbacks.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.training.callbacks.durable_checkpoint import (
        DurableCheckpointIO as DurableCheckpointIO,
    )
    from lit_iba.training.callbacks.heatmap_images import HeatmapImages as HeatmapImages
    from lit_iba.training.callbacks.resume import FiniteLoss as FiniteLoss
    from lit_iba.training.callbacks.resume import ResumeCheckpoint as ResumeCheckpoint
    from lit_iba.training.checkpoint import classifier_of as classifier_of
    from lit_iba.training.checkpoint import newest_checkpoint as newest_checkpoint
    from lit_iba.training.checkpoint import read_checkpoint as read_checkpoint
    from lit_iba.training.classifier import ClassifierTraining as ClassifierTraining
    from lit_iba.training.frozen import TrainingWithFrozenClassifier as TrainingWithFrozenClassifier
    from lit_iba.training.trained_explainer import Output as Output
    from lit_iba.training.trained_explainer import TrainedExplainer as TrainedExplainer
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.training.callbacks.durable_checkpoint": ["DurableCheckpointIO"],
            "lit_iba.training.callbacks.heatmap_images": ["HeatmapImages"],
            "lit_iba.training.callbacks.resume": ["FiniteLoss", "ResumeCheckpoint"],
            "lit_iba.training.checkpoint": [
                "classifier_of",
                "newest_checkpoint",
                "read_checkpoint",
            ],
            "lit_iba.training.classifier": ["ClassifierTraining"],
            "lit_iba.training.frozen": ["TrainingWithFrozenClassifier"],
            "lit_iba.training.trained_explainer": ["Output", "TrainedExplainer"],
        },
    )

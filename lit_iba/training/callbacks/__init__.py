"""Lightning callbacks and plugins; each does one thing and can be left out."""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.training.callbacks.durable_checkpoint import (
        DurableCheckpointIO as DurableCheckpointIO,
    )
    from lit_iba.training.callbacks.heatmap_images import HeatmapImages as HeatmapImages
    from lit_iba.training.callbacks.resume import FiniteLoss as FiniteLoss
    from lit_iba.training.callbacks.resume import PreemptedError as PreemptedError
    from lit_iba.training.callbacks.resume import ResumeCheckpoint as ResumeCheckpoint
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.training.callbacks.durable_checkpoint": ["DurableCheckpointIO"],
            "lit_iba.training.callbacks.heatmap_images": ["HeatmapImages"],
            "lit_iba.training.callbacks.resume": [
                "FiniteLoss",
                "PreemptedError",
                "ResumeCheckpoint",
            ],
        },
    )

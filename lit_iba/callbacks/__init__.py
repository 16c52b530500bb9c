"""Lightning callbacks and plugins; each does one thing and can be left out."""

from lit_iba.callbacks.durable_checkpoint import DurableCheckpointIO
from lit_iba.callbacks.heatmap_images import HeatmapImages
from lit_iba.callbacks.resume import FiniteLoss, ResumeCheckpoint

__all__ = ["DurableCheckpointIO", "FiniteLoss", "HeatmapImages", "ResumeCheckpoint"]

"""Lightning callbacks; each does one thing and can be left out."""

from lit_iba.callbacks.heatmap_images import HeatmapImages

__all__ = ["HeatmapImages"]

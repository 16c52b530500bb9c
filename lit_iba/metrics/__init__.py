"""Metrics of heatmaps: torchmetrics classes over pure functions, one file a family (docs/metrics.md)."""

from lit_iba.metrics.base import HeatmapMetric, Result, build_metric, metric_class

__all__ = ["HeatmapMetric", "Result", "build_metric", "metric_class"]

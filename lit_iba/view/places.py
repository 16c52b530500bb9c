"""The place of one picture in a run: its score by each metric and method, among all others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lit_iba.report.naming import number
from lit_iba.report.run_folder import RunFolder, score_rows
from lit_iba.report.tables import MetricTable, build_tables

BINS = 24


class Places:
    """Where pictures stand among all images of a run.

    Args:
        run: What was read from the run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.tables = build_tables(run)
        self.scores = {table.name: _finite(score_rows(run, table.name)) for table in self.tables}

    def of(self, key: str) -> list[dict[str, Any]]:
        """The metrics of one picture.

        Args:
            key: Name of the picture.

        Returns:
            For each metric its label, definition, direction and the ends of its axis; for each
            method the picture's score as text and in [0, 1] of the axis, its place from the best,
            and how many images each of the axis' bins has.
        """
        return [self._metric(table, key) for table in self.tables]

    def _metric(self, table: MetricTable, key: str) -> dict[str, Any]:
        methods = self.scores[table.name]
        every = [score for scores in methods.values() for score in scores.values()]
        low, high = (min(every), max(every)) if every else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        return {
            "label": table.label,
            "better": table.info.better,
            "definition": table.info.definition,
            "low": number(low),
            "high": number(high),
            "methods": {
                name: _place(scores, key, low, high, table.info.better == "lower")
                for name, scores in methods.items()
                if scores
            },
        }


def _finite(methods: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: score for key, score in scores.items() if math.isfinite(score)}
        for name, scores in methods.items()
    }


def _place(
    scores: Mapping[str, float], key: str, low: float, high: float, lower: bool
) -> dict[str, Any]:
    values = np.array(list(scores.values()))
    counts = np.histogram(values, BINS, (low, high))[0].tolist()
    mean = float(values.mean())
    found: dict[str, Any] = {
        "images": len(values),
        "counts": counts,
        "mean": number(mean),
        "mean_at": (mean - low) / (high - low),
    }
    own = scores.get(key)
    if own is not None:
        better = int((values < own).sum() if lower else (values > own).sum())
        found |= {"score": number(own), "at": (own - low) / (high - low), "place": better + 1}
    return found

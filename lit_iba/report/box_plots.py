"""How a score is spread over the images: the numbers of a box plot, for the page and the Markdown
report alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lit_iba.report.tables import MetricTable


def caption(samples: str) -> str:
    """What is drawn of each method, of scores of such samples."""
    return (
        f"One box a method: from the 25th to the 75th percentile of the {samples}, a line at the"
        " median, whiskers to the 5th and 95th percentile, a dot at the mean."
    )


@dataclass(frozen=True)
class BoxPlot:
    """Percentiles of one method's score over images.

    Args:
        percentiles: The 5th, 25th, 50th, 75th and 95th.
    """

    name: str
    label: str
    color: int
    percentiles: tuple[float, float, float, float, float]
    mean: float


def box_plots(table: MetricTable, colors: Mapping[str, int]) -> list[BoxPlot]:
    """A box for every method that has at least two images' scores, best first."""
    boxes = []
    for row in table.rows:
        if len(row.values) > 1:
            low, lower, middle, upper, high = np.percentile(
                row.values, (5, 25, 50, 75, 95)
            ).tolist()
            mean = sum(row.values) / len(row.values)
            boxes.append(
                BoxPlot(
                    row.name, row.label, colors[row.name], (low, lower, middle, upper, high), mean
                )
            )
    return boxes


def box_range(boxes: list[BoxPlot]) -> tuple[float, float]:
    """What the common axis spans: every whisker and every mean."""
    low = min(min(box.percentiles[0], box.mean) for box in boxes)
    high = max(max(box.percentiles[-1], box.mean) for box in boxes)
    return (low, high) if high > low else (low - 0.5, high + 0.5)

"""The pictures on which the best method of a metric does best and worst: what a mean hides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_iba.heatmap import Heatmap
from lit_iba.report.pictures import outline, photograph_uri, pixelated
from lit_iba.report.run_folder import RunFolder, score_rows
from lit_iba.report.tables import MetricTable

MOST = 3  # pictures of each kind


@dataclass(frozen=True)
class Case:
    """One picture of a method: its number in the gallery, and its place among all images, the
    best being the first.
    """

    picture: int
    title: str
    score: float
    place: int
    images: int
    overlay: str
    border: str
    width: int
    height: int
    small: bool


def telling_pictures(table: MetricTable, run: RunFolder) -> tuple[list[int], list[int]]:
    """Numbers of the gallery's pictures on which the metric's best method does worst, the worst
    first, and best, the best first; at most three of each, and no picture twice.
    """
    if run.gallery is None or table.best is None or table.best.name not in run.gallery.heatmaps:
        return [], []
    scores = score_rows(run, table.name).get(table.best.name, {})
    known = [
        (scores[key], number)
        for number, key in enumerate(run.gallery.keys)
        if math.isfinite(scores.get(key, math.nan))
    ]
    known.sort(reverse=table.info.better == "lower")  # from the worst
    each = min(MOST, len(known) // 2)
    worst, best = known[:each], known[len(known) - each :][::-1]
    return [number for _, number in worst], [number for _, number in best]


def telling_cases(
    table: MetricTable, run: RunFolder, shown: Sequence[int]
) -> list[tuple[str, list[Case]]]:
    """Failures and successes of the metric's best method, each under its title; none where the
    gallery has too few pictures.

    Args:
        table: Of the metric.
        run: With its gallery.
        shown: Numbers of the gallery's pictures that the page shows, in its order.
    """
    worst, best = telling_pictures(table, run)
    if not worst or table.best is None:
        return []
    scores = score_rows(run, table.name)[table.best.name]
    values = sorted(
        (value for value in scores.values() if math.isfinite(value)),
        reverse=table.info.better != "lower",
    )
    places = [
        (title, [_case(run, table.best.name, number, scores, values, shown) for number in numbers])
        for title, numbers in (("Failures", worst), ("Successes", best))
    ]
    return [(title, [case for case in cases if case is not None]) for title, cases in places]


def _case(
    run: RunFolder,
    method: str,
    number: int,
    scores: dict[str, float],
    values: list[float],
    shown: Sequence[int],
) -> Case | None:
    gallery = run.gallery
    if gallery is None or number not in shown:
        return None
    picture, key = gallery.pictures[number], gallery.keys[number]
    info = run.explainers.get(method)
    heatmap = Heatmap(
        gallery.heatmaps[method][number][None],
        signed=info is not None and info.signed,
    )
    height, width = picture.shape[-2:]
    return Case(
        picture=shown.index(number),
        title=gallery.labels[number] or key,
        score=scores[key],
        place=values.index(scores[key]) + 1,
        images=len(values),
        overlay=photograph_uri(heatmap.overlay(picture[None])[0]),
        border=outline(gallery.object_mask[number]),
        width=width,
        height=height,
        small=pixelated(height, width),
    )

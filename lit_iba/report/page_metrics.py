"""One section of the page for each metric: what it is, who does how well, the published numbers,
and its curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_iba.report.box_plots import box_plots, box_range, caption
from lit_iba.report.curves import area_panels, bounds, line_charts
from lit_iba.report.page_gallery import Shown
from lit_iba.report.published import Published
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.significance import SIGNIFICANCE
from lit_iba.report.svg import area_panel, box_axis, box_strip, line_chart, strip, strip_range
from lit_iba.report.tables import (
    MetricTable,
    agreement_note,
    interval_note,
    published_for,
    published_notes,
    rule_note,
)
from lit_iba.report.telling import telling_cases
from lit_iba.report.templates import Markup, render


def metric_section(
    number: int,
    table: MetricTable,
    run: RunFolder,
    colors: Mapping[str, int],
    shown: Shown,
) -> Markup:
    """The inside of the section of one metric, ``number`` among those of the page."""
    how = f"{rule_note(table.samples)} {interval_note(table.samples)}"
    notes = [agreement_note(table), how, *published_notes(table, run)]
    scale = strip_range(table.rows)
    return render(
        "report/metric.html",
        metric=number,
        table=table,
        sample=run.sample,
        colors=colors,
        shown=shown.methods,
        telling=telling_cases(table, run, shown.pictures),
        scale=scale,
        rows=[(row, strip(row, *scale, colors[row.name])) for row in table.rows],
        with_published=any(row.published for row in table.rows),
        notes=[note for note in notes if note],
        pairs=_pairs(table),
        significance=SIGNIFICANCE,
        published=_all_published(table),
        **_boxes(table, colors),
        **_areas(table, colors),
        **_charts(table, colors),
        **_extras(table, run),
    )


def _boxes(table: MetricTable, colors: Mapping[str, int]) -> dict[str, Any]:
    boxes = box_plots(table, colors)
    if not boxes:
        return {"boxes": []}
    low, high = box_range(boxes)
    drawn = [(box, box_strip(box, low, high)) for box in boxes]
    return {"boxes": drawn, "box_caption": caption(table.samples), "axis": box_axis(low, high)}


@dataclass(frozen=True)
class _PairCell:
    """Whether the method of the row is better than that of the column."""

    sign: str
    adjusted: float
    images: int


def _pairs(table: MetricTable) -> list[tuple[str, list[_PairCell | None]]]:
    """Every method against every other one, as a square table."""
    names = {
        row.name: row.label for row in table.rows if any(row.name in pair for pair in table.pairs)
    }
    if len(names) < 3:  # two methods are in the table above
        return []
    return [
        (label, [_pair_cell(table, name, other) for other in names])
        for name, label in names.items()
    ]


def _pair_cell(table: MetricTable, name: str, other: str) -> _PairCell | None:
    pair, turned = table.pairs.get((name, other)), table.pairs.get((other, name))
    found = pair or turned
    if found is None:
        return None
    ahead = found.ahead if pair else -found.ahead
    sign = "≈" if found.adjusted >= SIGNIFICANCE or not ahead else "▲" if ahead > 0 else "▽"
    return _PairCell(sign, found.adjusted, found.images)


def _areas(table: MetricTable, colors: Mapping[str, int]) -> dict[str, Any]:
    panels = area_panels(table, colors)
    if not panels:
        return {"panels": []}
    y_range = bounds([curve for panel in panels for curve in (panel.morf, panel.lerf)])
    result = next(row.result for row in table.rows if row.name == panels[0].name)
    axes = " against ".join(text for text in (result.y_label, result.x_label) if text)
    return {"panels": [(panel, area_panel(panel, y_range)) for panel in panels], "panel_axes": axes}


def _charts(table: MetricTable, colors: Mapping[str, int]) -> dict[str, Any]:
    charts = line_charts(table, colors)
    return {
        "charts": [
            (chart, line_chart(chart), any(line.curve.se for line in chart.lines))
            for chart in charts
        ]
    }


def _extras(table: MetricTable, run: RunFolder) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in table.rows for name in row.result.extra))
    rows = []
    for row in table.rows:
        values = [row.result.extra.get(name, float("nan")) for name in names]
        beside = [published_for(run, table.name, row.name, name)[0] for name in names]
        rows.append((row, list(zip(values, beside, strict=True))))
    return {"extras": names, "extra_rows": rows}


@dataclass(frozen=True)
class _PublishedTable:
    """What one table of one paper prints about a metric."""

    first: Published
    notes: str
    several: bool  # quantities
    columns: list[str]
    rows: list[tuple[str, str, list[Published | None]]]  # label, quantity, and an item a column


def _all_published(table: MetricTable) -> list[_PublishedTable]:
    """Every printed number of this metric, also of methods that this run did not have."""
    groups: dict[tuple[str, str], list[Published]] = {}
    for item in table.all_published:
        groups.setdefault((item.source, item.table), []).append(item)
    return [_published_table(members) for members in groups.values()]


def _published_table(members: list[Published]) -> _PublishedTable:
    columns = list(dict.fromkeys(map(_column, members)))
    values: dict[tuple[str, str], dict[str, Published]] = {}
    for item in members:
        values.setdefault((item.label, item.quantity), {})[_column(item)] = item
    texts = dict.fromkeys(
        text for item in members for text in (_sentence(item.data), item.note) if text
    )
    return _PublishedTable(
        first=members[0],
        notes=" ".join(
            text for text in texts if not any(text in other for other in texts if other != text)
        ),
        several=any(item.quantity != "score" for item in members),
        columns=columns,
        rows=[
            (label, quantity, [by_column.get(column) for column in columns])
            for (label, quantity), by_column in values.items()
        ],
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _column(item: Published) -> str:
    return f"{item.network_label}, {item.condition}" if item.condition else item.network_label

"""The same curves as PNG files, for the Markdown report (matplotlib, no display needed)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_iba.files import whole_file
from lit_iba.report.box_plots import BoxPlot, box_plots
from lit_iba.report.curves import (
    COLORS_LIGHT,
    GREY_LIGHT,
    AreaPanel,
    LineChart,
    area_panels,
    line_charts,
)
from lit_iba.report.naming import number
from lit_iba.report.run_folder import Curve
from lit_iba.report.tables import MetricTable

INK, PALE = "#2b2b28", "#dcdad2"


def write_plots(
    table: MetricTable, index: int, colors: Mapping[str, int], folder: Path
) -> list[Path]:
    """Draw every curve of one metric into ``folder``; the paths, in the order in which they should
    be shown.

    ``index`` is the metric's place in the report: it keeps apart names that differ in what no file
    name can hold.
    """
    stem = f"{index:02d}_{re.sub(r'[^A-Za-z0-9-]+', '_', table.name)[:60]}"
    paths = []
    boxes = box_plots(table, colors)
    if boxes:
        paths.append(_save(_box_figure(boxes, table.label), folder / f"{stem}_boxes.png"))
    panels = area_panels(table, colors)
    if panels:
        x_label = table.rows[0].result.x_label
        paths.append(_save(_area_figure(panels, x_label), folder / f"{stem}_areas.png"))
    for i, chart in enumerate(line_charts(table, colors)):
        paths.append(_save(line_figure(chart), folder / f"{stem}_curve{i}.png"))
    return paths


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=144, facecolor="white")
    return path


def _color(index: int) -> str:
    return GREY_LIGHT if index < 0 else COLORS_LIGHT[index % len(COLORS_LIGHT)]


def _plain(text: str) -> str:
    """Text that matplotlib shall not read as mathematics."""
    return text.replace("$", r"\$")


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=8, length=3, color=PALE)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _band(axes: Axes, curve: Curve, color: str) -> None:
    if curve.se:
        pairs = list(zip(curve.y, curve.se, strict=True))
        axes.fill_between(
            curve.x,
            [y - e for y, e in pairs],
            [y + e for y, e in pairs],
            color=color,
            alpha=0.2,
            lw=0,
        )


def _box_figure(boxes: list[BoxPlot], x_label: str) -> Figure:
    figure = Figure(figsize=(7.2, 0.7 + 0.3 * len(boxes)), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [
        {**dict(zip(keys, box.percentiles, strict=True)), "mean": box.mean, "label": box.label}
        for box in boxes
    ]
    drawn = axes.bxp(
        [{**item, "label": _plain(str(item["label"]))} for item in stats],
        orientation="horizontal",
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        widths=0.6,
        medianprops={"color": INK, "linewidth": 1.6},
        meanprops={"marker": "o", "markersize": 4, "markeredgecolor": INK, "markerfacecolor": INK},
    )
    for patch, box in zip(drawn["boxes"], boxes, strict=True):
        patch.set(facecolor=_color(box.color), alpha=0.45, edgecolor=_color(box.color))
    axes.invert_yaxis()
    axes.set_xlabel(_plain(x_label), fontsize=8, color=INK)
    return figure


def _area_figure(panels: list[AreaPanel], x_label: str) -> Figure:
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.7 * max(columns, 2), 2.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _style(axes)
        color = _color(panel.color)
        if panel.morf.x == panel.lerf.x:
            axes.fill_between(
                panel.morf.x, panel.morf.y, panel.lerf.y, color=color, alpha=0.16, lw=0
            )
        for curve, style in ((panel.lerf, (0, (4, 2))), (panel.morf, "solid")):
            _band(axes, curve, color)
            axes.plot(curve.x, curve.y, color=color, linestyle=style, linewidth=1.4)
        axes.set_title(
            f"{_plain(panel.label)}  {number(panel.score)}", fontsize=9, color=INK, loc="left"
        )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{_plain(x_label)}   (solid: MoRF, dashed: LeRF)", fontsize=8, color=INK)
    return figure


def line_figure(chart: LineChart) -> Figure:
    """Curves on common axes, each with the band of its standard errors."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    for line in chart.lines:
        color = _color(line.color)
        _band(axes, line.curve, color)
        marker = "o" if len(line.curve.x) == 1 else None
        style = "dashed" if line.color >= len(COLORS_LIGHT) else "solid"
        axes.plot(
            line.curve.x,
            line.curve.y,
            color=color,
            linestyle=style,
            linewidth=1.5,
            marker=marker,
            label=_plain(line.label),
        )
    if chart.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(_plain(chart.x_label), fontsize=8, color=INK)
    axes.set_ylabel(_plain(chart.y_label), fontsize=8, color=INK)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure

"""The same curves as PNG files, for the Markdown report (matplotlib, no display needed)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_iba.drawing import name_beside, plain_text
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
from lit_iba.report.quantities import Spread, over_layers
from lit_iba.report.run_folder import Curve, RunFolder
from lit_iba.report.tables import MetricTable

INK, PALE = "#2b2b28", "#dcdad2"
CHARACTERS = 32  # of a title, that are as wide as a panel of areas


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
        paths.append(save_figure(_box_figure(boxes, table.label), folder / f"{stem}_boxes.png"))
    panels = area_panels(table, colors)
    if panels:
        x_label = table.rows[0].result.x_label
        paths.append(save_figure(_area_figure(panels, x_label), folder / f"{stem}_areas.png"))
    for i, chart in enumerate(line_charts(table, colors)):
        paths.append(save_figure(line_figure(chart), folder / f"{stem}_curve{i}.png"))
    return paths


def write_layer_plots(run: RunFolder, folder: Path) -> list[Path]:
    """Draw every quantity of numbered explainers over their numbers; the paths."""
    paths = []
    for (metric, quantity), groups in over_layers(run).items():
        name = re.sub(r"[^A-Za-z0-9-]+", "_", f"{metric}_{quantity}")[:80]
        figure = layer_figure(groups, f"{metric}: {quantity}")
        paths.append(save_figure(figure, folder / f"layers_{name}.png"))
    return paths


def remove_other_plots(folder: Path, drawn: Sequence[Path]) -> None:
    """Remove the plots that an earlier report of the same run drew and this one did not; files
    with other names stay.
    """
    ours = re.compile(r"(\d{2,}_.+_(boxes|areas|curve\d+)|layers_.+)\.png")
    for path in set(folder.glob("*.png")) - set(drawn):
        if ours.fullmatch(path.name):
            path.unlink()


def layer_figure(groups: Mapping[str, list[tuple[int, Spread]]], y_label: str) -> Figure:
    """Medians over the numbers of the explainers, each group with the band of its quartiles."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    style_axes(axes)
    for place, (name, points) in enumerate(groups.items()):
        layers, rows = [layer for layer, _ in points], [row for _, row in points]
        lower, upper = [row.lower_quartile for row in rows], [row.upper_quartile for row in rows]
        axes.fill_between(layers, lower, upper, color=line_color(place), alpha=0.15, lw=0)
        axes.plot(
            layers,
            [row.median for row in rows],
            color=line_color(place),
            linewidth=1.5,
            marker=".",
            label=name_beside(name),
        )
    axes.set_xlabel("number in the explainer's name: layer", fontsize=8, color=INK)
    axes.set_ylabel(plain_text(f"{y_label}, median and quartiles"), fontsize=8, color=INK)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=144, facecolor="white")
    return path


def line_color(index: int) -> str:
    """Colour of a line by its number; grey below zero."""
    return GREY_LIGHT if index < 0 else COLORS_LIGHT[index % len(COLORS_LIGHT)]


def style_axes(axes: Axes) -> None:
    """The look that all plots have."""
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
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    keys = ("whislo", "q1", "med", "q3", "whishi")
    stats = [
        {**dict(zip(keys, box.percentiles, strict=True)), "mean": box.mean, "label": box.label}
        for box in boxes
    ]
    drawn = axes.bxp(
        [{**item, "label": name_beside(str(item["label"]))} for item in stats],
        orientation="horizontal",
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        widths=0.6,
        medianprops={"color": INK, "linewidth": 1.6},
        meanprops={"marker": "o", "markersize": 4, "markeredgecolor": INK, "markerfacecolor": INK},
    )
    for patch, box in zip(drawn["boxes"], boxes, strict=True):
        patch.set(facecolor=line_color(box.color), alpha=0.45, edgecolor=line_color(box.color))
    axes.invert_yaxis()
    axes.set_xlabel(plain_text(x_label), fontsize=8, color=INK)
    return figure


def _area_figure(panels: list[AreaPanel], x_label: str) -> Figure:
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.7 * max(columns, 2), 2.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        style_axes(axes)
        color = line_color(panel.color)
        if panel.morf.x == panel.lerf.x:
            axes.fill_between(
                panel.morf.x, panel.morf.y, panel.lerf.y, color=color, alpha=0.16, lw=0
            )
        for curve, style in ((panel.lerf, (0, (4, 2))), (panel.morf, "solid")):
            _band(axes, curve, color)
            axes.plot(curve.x, curve.y, color=color, linestyle=style, linewidth=1.4)
        title = fill(f"{name_beside(panel.label)}  {number(panel.score)}", CHARACTERS)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{plain_text(x_label)}   (solid: MoRF, dashed: LeRF)", fontsize=8, color=INK)
    return figure


def line_figure(chart: LineChart) -> Figure:
    """Curves on common axes, each with the band of its standard errors."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    style_axes(axes)
    for line in chart.lines:
        color = line_color(line.color)
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
            label=name_beside(line.label),
        )
    if chart.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(plain_text(chart.x_label), fontsize=8, color=INK)
    axes.set_ylabel(plain_text(chart.y_label), fontsize=8, color=INK)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure

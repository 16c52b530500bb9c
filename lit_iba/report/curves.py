"""Which curves belong together in one drawing, for the SVG of the page and the PNG of the Markdown
report alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_iba.report.run_folder import Curve, MethodResult
from lit_iba.report.tables import MetricTable

# Distinct for colour-blind readers in the first eight; grey is kept for the random control.
COLORS_LIGHT = (
    "#0b66a3",
    "#c8452f",
    "#2b8a5a",
    "#a9760a",
    "#7650a8",
    "#00868b",
    "#b03a73",
    "#5d6b1f",
    "#3d58b8",
    "#94593a",
    "#4a7d94",
    "#8a3ffc",
)
COLORS_DARK = (
    "#6cb8ee",
    "#f2846e",
    "#6fcf9b",
    "#e2b44c",
    "#b99aea",
    "#56c9cd",
    "#ea86b6",
    "#b3c266",
    "#93a9fb",
    "#d79c7b",
    "#93bfd2",
    "#c9a6ff",
)
GREY_LIGHT, GREY_DARK = "#80807a", "#9a9a94"


@dataclass(frozen=True)
class Line:
    """One curve of one method."""

    name: str
    label: str
    # index into the colours, again from the first with broken lines when they are used up; -1 for
    # grey
    color: int
    curve: Curve


@dataclass(frozen=True)
class AreaPanel:
    """MoRF and LeRF of one method: the area between them is the degradation score."""

    name: str
    label: str
    color: int
    morf: Curve
    lerf: Curve
    score: float


@dataclass(frozen=True)
class LineChart:
    """The curves of one name of every method, on common axes."""

    title: str
    lines: list[Line]
    x_label: str
    y_label: str
    log_x: bool


def colors_of(names: list[str]) -> dict[str, int]:
    """A colour a method, the same in every drawing of a report."""
    colored = [name for name in names if name != "random"]
    return {name: -1 if name == "random" else colored.index(name) for name in names}


def color_class(color: int) -> str:
    """Style sheet classes of a method's colour; ``again`` where the colours are used a second
    time.
    """
    return (
        "cx"
        if color < 0
        else f"c{color % len(COLORS_LIGHT)}{' again' if color >= len(COLORS_LIGHT) else ''}"
    )


def area_panels(table: MetricTable, colors: Mapping[str, int]) -> list[AreaPanel]:
    """A panel for every method that has both a MoRF and a LeRF curve, best first."""
    panels = []
    for row in table.rows:
        curves = {name.lower(): curve for name, curve in row.result.curves.items()}
        if "morf" in curves and "lerf" in curves:
            color = colors[row.name]
            panels.append(
                AreaPanel(
                    row.name, row.label, color, curves["morf"], curves["lerf"], row.result.score
                )
            )
    return panels


def line_charts(table: MetricTable, colors: Mapping[str, int]) -> list[LineChart]:
    """A chart for every other curve name, with all the methods that have it."""
    with_areas = {panel.name for panel in area_panels(table, colors)}
    lines: dict[str, list[Line]] = {}
    for row in table.rows:
        for name, curve in row.result.curves.items():
            if row.name in with_areas and name.lower() in ("morf", "lerf"):
                continue
            if curve.x:
                lines.setdefault(name, []).append(
                    Line(row.name, row.label, colors[row.name], curve)
                )
    labels = next((row.result for row in table.rows if row.result.curves), None)
    return [_line_chart(name, members, labels) for name, members in lines.items()]


def _line_chart(name: str, lines: list[Line], labels: MethodResult | None) -> LineChart:
    x = [value for line in lines for value in line.curve.x if math.isfinite(value)]
    # Where nothing is drawn, matplotlib refuses a logarithmic axis.
    drawn = any(math.isfinite(value) for line in lines for value in line.curve.y)
    log_x = drawn and bool(x) and min(x) > 0 and max(x) / min(x) >= 50
    return LineChart(
        name, lines, labels.x_label if labels else "", labels.y_label if labels else "", log_x
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high, about as many as wanted."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def bounds(curves: list[Curve]) -> tuple[float, float]:
    """Lowest and highest finite y of the curves, bands included; (0, 1) where there is none."""
    values = []
    for curve in curves:
        for i, y in enumerate(curve.y):
            spread = curve.se[i] if curve.se and math.isfinite(curve.se[i]) else 0.0
            values += [y - spread, y + spread] if math.isfinite(y) else []
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin

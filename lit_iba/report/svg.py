"""Small vector drawings for the page, coloured by its style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from lit_iba.report.box_plots import BoxPlot
from lit_iba.report.curves import COLORS_LIGHT, AreaPanel, LineChart, bounds, ticks
from lit_iba.report.naming import number
from lit_iba.report.run_folder import Curve
from lit_iba.report.tables import MetricRow


@dataclass(frozen=True)
class Frame:
    """Axes: the rectangle of the drawing in pixels, and what it spans in data."""

    left: float
    top: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log_x: bool = False

    def x(self, value: float) -> float:
        """Pixel of a data x."""
        scale: Callable[[float], float] = math.log10 if self.log_x else float
        span = scale(self.x_high) - scale(self.x_low) or 1.0
        return self.left + (scale(value) - scale(self.x_low)) / span * self.width

    def y(self, value: float) -> float:
        """Pixel of a data y."""
        return self.top + (self.y_high - value) / ((self.y_high - self.y_low) or 1.0) * self.height

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
        """Pixels of the points that are finite (and positive, on a logarithmic axis)."""
        pairs = zip(xs, ys, strict=True)
        return [
            (self.x(x), self.y(y))
            for x, y in pairs
            if math.isfinite(x) and math.isfinite(y) and (x > 0 or not self.log_x)
        ]


def path(points: Sequence[tuple[float, float]], closed: bool = False) -> str:
    """SVG path data through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if closed else "") if points else ""


def color_class(color: int) -> str:
    """Style sheet classes of a method's colour; ``again`` where the colours are used a second time."""
    return "cx" if color < 0 else f"c{color % len(COLORS_LIGHT)}{' again' if color >= len(COLORS_LIGHT) else ''}"


def _band(frame: Frame, curve: Curve) -> str:
    if not curve.se:
        return ""
    spread = [error if math.isfinite(error) else 0.0 for error in curve.se]
    upper = frame.points(curve.x, [y + e for y, e in zip(curve.y, spread, strict=True)])
    lower = frame.points(curve.x, [y - e for y, e in zip(curve.y, spread, strict=True)])
    return f'<path class="band" d="{path([*upper, *reversed(lower)], closed=True)}"/>' if len(upper) > 1 else ""


def _stroke(frame: Frame, curve: Curve, css: str) -> str:
    points = frame.points(curve.x, curve.y)
    if len(points) == 1:
        return f'<circle class="dot" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>'
    return f'<path class="{css}" d="{path(points)}"/>' if points else ""


def area_panel(panel: AreaPanel, y_range: tuple[float, float]) -> str:
    """MoRF and LeRF with the area between them, as in figures 7, 11 and 12 of the IBA paper."""
    xs = [x for x in panel.morf.x + panel.lerf.x if math.isfinite(x)] or [0.0, 1.0]
    frame = Frame(34, 10, 198, 132, min(xs), max(xs), *y_range)
    upper, lower = (frame.points(curve.x, curve.y) for curve in (panel.lerf, panel.morf))
    grid = _grid(frame, ticks(*y_range, 4), ticks(frame.x_low, frame.x_high, 4))
    title = f"{panel.label}: LeRF and MoRF curves, score {number(panel.score)}"
    area = f'<path class="area" d="{path([*upper, *reversed(lower)], closed=True)}"/>' if upper and lower else ""
    bands = _band(frame, panel.lerf) + _band(frame, panel.morf)
    strokes = _stroke(frame, panel.lerf, "line lerf") + _stroke(frame, panel.morf, "line morf")
    return (
        f'<svg viewBox="0 0 240 166" role="img" aria-label="{escape(title)}" class="{color_class(panel.color)}">'
        f"{grid}{area}{bands}{strokes}</svg>"
    )


def line_chart(chart: LineChart) -> str:
    """All the methods' curves of one name on common axes, with standard-error bands."""
    width, height = 760.0, 340.0
    curves = [line.curve for line in chart.lines]
    xs = [x for curve in curves for x in curve.x if math.isfinite(x)] or [0.0, 1.0]
    frame = Frame(52, 12, width - 66, height - 62, min(xs), max(xs), *bounds(curves), chart.log_x)
    x_ticks = _decades(frame.x_low, frame.x_high) if chart.log_x else ticks(frame.x_low, frame.x_high, 8)
    parts = [_grid(frame, ticks(frame.y_low, frame.y_high, 6), x_ticks)]
    for line in chart.lines:
        body = _band(frame, line.curve) + _stroke(frame, line.curve, "line")
        parts.append(
            f'<g class="series {color_class(line.color)}" data-method="{escape(line.name)}">'
            f"<title>{escape(line.label)}</title>{body}</g>"
        )
    middle = frame.left + frame.width / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{height - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(12 {frame.top + frame.height / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_label)}</text>'
    )
    label = f"{chart.title} of {len(chart.lines)} methods"
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power for power in powers if low * 0.999 <= 10.0**power <= high * 1.001]
    if len(found) >= 3:
        return found
    return [f * 10.0**p for p in powers for f in (1, 2, 5) if low * 0.999 <= f * 10.0**p <= high * 1.001]


def _grid(frame: Frame, y_ticks: list[float], x_ticks: list[float]) -> str:
    right, bottom = frame.left + frame.width, frame.top + frame.height
    parts = []
    for tick in y_ticks:
        y = frame.y(tick)
        css = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{css}" x1="{frame.left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{frame.left - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in x_ticks:
        x = frame.x(tick)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:g}" y2="{bottom + 4:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17:g}" text-anchor="middle">{_tick(tick)}</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return text.replace("-", "−").replace(",", " ")


def strip(row: MetricRow, low: float, high: float, color: int) -> str:
    """A row's score on the table's scale: a dot with its standard error, a hollow diamond for the printed value."""
    width, middle = 150.0, 15.0
    frame = Frame(8, 0, width - 16, 22, low, high, 0, 1)
    parts = [f'<line class="grid" x1="8" x2="{width - 8:g}" y1="{middle}" y2="{middle}"/>']
    if low <= 0 <= high:
        parts.append(f'<line class="zero" x1="{frame.x(0):.1f}" x2="{frame.x(0):.1f}" y1="9" y2="21"/>')
    if row.published is not None and math.isfinite(row.published.value):
        x = frame.x(row.published.value)
        css = "diamond" if row.same_network else "diamond far"
        parts.append(f'<path class="{css}" d="M{x:.1f} 0.5l4 4l-4 4l-4 -4Z"/>')
    score, error = row.result.score, row.result.standard_error
    if math.isfinite(score):
        if math.isfinite(error) and error > 0:
            ends = f'x1="{frame.x(score - error):.1f}" x2="{frame.x(score + error):.1f}"'
            parts.append(f'<line class="whisker" {ends} y1="{middle}" y2="{middle}"/>')
        parts.append(f'<circle class="dot" cx="{frame.x(score):.1f}" cy="{middle}" r="4"/>')
    return (
        f'<svg class="strip {color_class(color)}" viewBox="0 0 {width:g} 22" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _box_frame(low: float, high: float) -> Frame:
    return Frame(10, 0, 580, 24, low, high, 0, 1)


def box_strip(box: BoxPlot, low: float, high: float) -> str:
    """One method's box on the axis from ``low`` to ``high``; :func:`box_axis` belongs below the last one."""
    frame = _box_frame(low, high)
    bottom, lower, middle, upper, top = (f"{frame.x(value):.1f}" for value in box.percentiles)
    width = f"{frame.x(box.percentiles[3]) - frame.x(box.percentiles[1]):.1f}"
    zero = (
        f'<line class="zero" x1="{frame.x(0):.1f}" x2="{frame.x(0):.1f}" y1="0" y2="24"/>' if low <= 0 <= high else ""
    )
    numbers = ", ".join(number(value) for value in box.percentiles)
    title = f"{box.label}: 5th, 25th, 50th, 75th and 95th percentile {numbers}; mean {number(box.mean)}"
    return (
        f'<svg class="{color_class(box.color)}" viewBox="0 0 600 24" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{zero}"
        f'<path class="reach" d="M{bottom} 12H{lower}M{upper} 12H{top}M{bottom} 8V16M{top} 8V16"/>'
        f'<rect class="box" x="{lower}" y="4" width="{width}" height="16"/>'
        f'<path class="median" d="M{middle} 4V20"/>'
        f'<circle class="dot" cx="{frame.x(box.mean):.1f}" cy="12" r="3"/></svg>'
    )


def box_axis(low: float, high: float) -> str:
    """The axis below the boxes."""
    frame = _box_frame(low, high)
    marks = "".join(
        f'<line class="mark" x1="{frame.x(tick):.1f}" x2="{frame.x(tick):.1f}" y1="0" y2="5"/>'
        f'<text class="tick" x="{frame.x(tick):.1f}" y="21" text-anchor="middle">{_tick(tick)}</text>'
        for tick in ticks(low, high, 5)
    )
    line = f'<line class="mark" x1="{frame.left}" x2="{frame.left + frame.width}" y1="0" y2="0"/>'
    return f'<svg viewBox="0 0 600 26" aria-hidden="true">{line}{marks}</svg>'


def strip_range(rows: Sequence[MetricRow]) -> tuple[float, float]:
    """The common scale of a table's strips: every score with its error, every printed value, and zero."""
    values = [0.0]
    for row in rows:
        error = row.result.standard_error if math.isfinite(row.result.standard_error) else 0.0
        values += [row.result.score - error, row.result.score + error]
        values += [row.published.value] if row.published is not None else []
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)

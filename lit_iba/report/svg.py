"""Small vector drawings for the page, coloured by its style sheet, so that they follow light and
dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_iba.report.box_plots import BoxPlot
from lit_iba.report.curves import AreaPanel, LineChart, bounds, ticks
from lit_iba.report.naming import number
from lit_iba.report.run_folder import Curve
from lit_iba.report.tables import MetricRow
from lit_iba.report.templates import Markup, environment


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
    return (
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if closed else "")
        if points
        else ""
    )


@dataclass(frozen=True)
class _Drawn:
    """A curve in pixels: its path, or its only point, and the band of its errors."""

    path: str
    dot: tuple[float, float] | None
    band: str


def _draw(name: str, **values: Any) -> Markup:
    """One drawing of the template."""
    module: Any = environment().get_template("report/drawings.html").module
    return getattr(module, name)(**values)


def _drawn(frame: Frame, curve: Curve) -> _Drawn:
    points = frame.points(curve.x, curve.y)
    alone = points[0] if len(points) == 1 else None
    return _Drawn("" if alone else path(points), alone, _band(frame, curve))


def _band(frame: Frame, curve: Curve) -> str:
    if not curve.se:
        return ""
    spread = [error if math.isfinite(error) else 0.0 for error in curve.se]
    upper = frame.points(curve.x, [y + e for y, e in zip(curve.y, spread, strict=True)])
    lower = frame.points(curve.x, [y - e for y, e in zip(curve.y, spread, strict=True)])
    return path([*upper, *reversed(lower)], closed=True) if len(upper) > 1 else ""


def area_panel(panel: AreaPanel, y_range: tuple[float, float]) -> Markup:
    """MoRF and LeRF with the area between them, as in figures 7, 11 and 12 of the IBA paper."""
    xs = [x for x in panel.morf.x + panel.lerf.x if math.isfinite(x)] or [0.0, 1.0]
    frame = Frame(34, 10, 198, 132, min(xs), max(xs), *y_range)
    upper, lower = (frame.points(curve.x, curve.y) for curve in (panel.lerf, panel.morf))
    return _draw(
        "area_panel",
        title=f"{panel.label}: LeRF and MoRF curves, score {number(panel.score)}",
        color=panel.color,
        frame=frame,
        y_ticks=_named(ticks(*y_range, 4)),
        x_ticks=_named(ticks(frame.x_low, frame.x_high, 4)),
        area=path([*upper, *reversed(lower)], closed=True) if upper and lower else "",
        lines=[_drawn(frame, panel.lerf), _drawn(frame, panel.morf)],
    )


def line_chart(chart: LineChart) -> Markup:
    """All the methods' curves of one name on common axes, with standard-error bands."""
    width, height = 760.0, 340.0
    curves = [line.curve for line in chart.lines]
    xs = [x for curve in curves for x in curve.x if math.isfinite(x)] or [0.0, 1.0]
    frame = Frame(52, 12, width - 66, height - 62, min(xs), max(xs), *bounds(curves), chart.log_x)
    x_ticks = (
        _decades(frame.x_low, frame.x_high) if chart.log_x else ticks(frame.x_low, frame.x_high, 8)
    )
    return _draw(
        "line_chart",
        title=f"{chart.title} of {len(chart.lines)} methods",
        width=width,
        height=height,
        frame=frame,
        y_ticks=_named(ticks(frame.y_low, frame.y_high, 6)),
        x_ticks=_named(x_ticks),
        lines=[(line, _drawn(frame, line.curve)) for line in chart.lines],
        x_label=chart.x_label,
        y_label=chart.y_label,
    )


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power for power in powers if low * 0.999 <= 10.0**power <= high * 1.001]
    if len(found) >= 3:
        return found
    return [
        f * 10.0**p for p in powers for f in (1, 2, 5) if low * 0.999 <= f * 10.0**p <= high * 1.001
    ]


def _named(values: list[float]) -> list[tuple[float, str]]:
    """Ticks with their texts."""
    return [(value, _tick(value)) for value in values]


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return text.replace("-", "−").replace(",", " ")


def strip(row: MetricRow, low: float, high: float, color: int) -> Markup:
    """A row's score on the table's scale: a dot with its standard error, a hollow diamond for the
    printed value.
    """
    width = 150.0
    frame = Frame(8, 0, width - 16, 22, low, high, 0, 1)
    printed = row.published.value if row.published is not None else math.nan
    score, error = row.result.score, row.result.standard_error
    whisker = math.isfinite(score) and math.isfinite(error) and error > 0
    return _draw(
        "strip",
        color=color,
        width=width,
        zero=frame.x(0) if low <= 0 <= high else None,
        diamond=frame.x(printed) if math.isfinite(printed) else None,
        far=not row.same_network,
        whisker=(frame.x(score - error), frame.x(score + error)) if whisker else None,
        dot=frame.x(score) if math.isfinite(score) else None,
    )


def _box_frame(low: float, high: float) -> Frame:
    return Frame(10, 0, 580, 24, low, high, 0, 1)


def box_strip(box: BoxPlot, low: float, high: float) -> Markup:
    """One method's box on the axis from ``low`` to ``high``; :func:`box_axis` belongs below the
    last one.
    """
    frame = _box_frame(low, high)
    numbers = ", ".join(number(value) for value in box.percentiles)
    return _draw(
        "box_strip",
        title=(
            f"{box.label}: 5th, 25th, 50th, 75th and 95th percentile {numbers}; mean"
            f" {number(box.mean)}"
        ),
        color=box.color,
        zero=frame.x(0) if low <= 0 <= high else None,
        ends=[f"{frame.x(value):.1f}" for value in box.percentiles],
        width=f"{frame.x(box.percentiles[3]) - frame.x(box.percentiles[1]):.1f}",
        mean=f"{frame.x(box.mean):.1f}",
    )


def box_axis(low: float, high: float) -> Markup:
    """The axis below the boxes."""
    return _draw("box_axis", frame=_box_frame(low, high), marks=_named(ticks(low, high, 5)))


def strip_range(rows: Sequence[MetricRow]) -> tuple[float, float]:
    """The common scale of a table's strips: every score with its error, every printed value, and
    zero.
    """
    values = [0.0]
    for row in rows:
        error = row.result.standard_error if math.isfinite(row.result.standard_error) else 0.0
        values += [row.result.score - error, row.result.score + error]
        values += [row.published.value] if row.published is not None else []
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)

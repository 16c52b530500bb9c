"""Figures and tables of an evaluation, for whatever logger there is.

Scalars reach every logger by Lightning's own way. Figures and tables have no common one: TensorBoard
takes both (a table as Markdown), loggers with ``log_image`` and ``log_table`` (Weights & Biases)
take both, and for all others they are files in the logger's folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure

from lit_iba.evaluation.callbacks.judging import Scored
from lit_iba.files import whole_file, write_text
from lit_iba.metrics import HeatmapMetric
from lit_iba.report.curves import Line, LineChart
from lit_iba.report.plots import line_figure
from lit_iba.report.run_folder import Curve

History = Mapping[str, Sequence[tuple[int, float, float]]]  # step, score and its error, by metric


def log_evaluation(
    loggers: Sequence[Logger],
    stage: str,
    step: int,
    metrics: Mapping[str, HeatmapMetric],
    scored: Mapping[str, Mapping[str, Scored]],
    history: History,
) -> None:
    """Log every curve, every score over the training, and the rows.

    Args:
        loggers: Where to.
        stage: ``"val"`` or ``"test"``, the first part of every name.
        step: Of the training.
        metrics: By name, the main one first.
        scored: By explainer (the trained one first, then the controls) and metric.
        history: The trained one's scores so far.
    """
    for name in metrics:
        results = {explainer: by_name[name] for explainer, by_name in scored.items()}
        charts = {f"{stage}/{name}_{c.title}": c for c in curve_charts(results)}
        if len(history.get(name, ())) > 1:
            charts[f"{stage}/{name}"] = history_chart(name, history[name], results)
        for tag, chart in charts.items():
            for logger in loggers:
                log_figure(logger, tag, line_figure(chart), step)
    by_name = next(iter(scored.values()))
    columns, rows = table_of(by_name)
    for logger in loggers:
        log_table(logger, f"{stage}/evaluation_rows", columns, rows, step)


def curve_charts(results: Mapping[str, Scored]) -> list[LineChart]:
    """A chart for every curve of a metric, with every explainer's line."""
    lines: dict[str, list[Line]] = {}
    for color, (explainer, scored) in enumerate(results.items()):
        for title, c in scored.result.curves.items():
            curve = Curve(c["x"], c["y"], c.get("se", []))
            lines.setdefault(title, []).append(Line(explainer, explainer, color, curve))
    first = next(iter(results.values())).result
    return [LineChart(t, found, first.x_label, first.y_label, False) for t, found in lines.items()]


def history_chart(
    name: str, history: Sequence[tuple[int, float, float]], results: Mapping[str, Scored]
) -> LineChart:
    """The score over the training; controls, which do not change, are horizontal lines."""
    steps, scores, errors = (list(column) for column in zip(*history, strict=True))
    explainer, *controls = results
    lines = [Line(explainer, explainer, 0, Curve([float(s) for s in steps], scores, errors))]
    for color, control in enumerate(controls, start=1):
        result = results[control].result
        ends = [float(steps[0]), float(steps[-1])]
        curve = Curve(ends, [result.score] * 2, [result.standard_error] * 2)
        lines.append(Line(control, control, color, curve))
    return LineChart(name, lines, "step of the training", name, False)


def table_of(by_name: Mapping[str, Scored]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: an image each, with every scalar of every metric."""
    columns, keys = ["key"], next(iter(by_name.values())).keys
    values = []
    for name, scored in by_name.items():
        for quantity, numbers in scored.scalars.items():
            columns.append(name if quantity == "score" else f"{name}/{quantity}")
            values.append(numbers)
    return columns, [list(row) for row in zip(keys, *values, strict=True)]


def log_figure(logger: Logger, tag: str, figure: Figure, step: int) -> None:
    """Give a logger a figure."""
    if isinstance(logger, DummyLogger):
        return
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(tag, figure, step)
    elif hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[figure], step=step)
    elif folder := _folder(logger, tag):
        with whole_file(folder / f"{step:08d}.png") as part:
            figure.savefig(part, format="png", dpi=144, facecolor="white")


def log_table(
    logger: Logger, tag: str, columns: list[str], rows: list[list[Any]], step: int
) -> None:
    """Give a logger a table."""
    if isinstance(logger, DummyLogger):
        return
    if isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        logger.experiment.add_text(tag, text, step)
    elif hasattr(logger, "log_table"):
        logger.log_table(key=tag, columns=columns, data=rows, step=step)
    elif folder := _folder(logger, tag):
        written = io.StringIO()
        csv.writer(written).writerows([columns, *rows])
        write_text(folder / f"{step:08d}.csv", written.getvalue())


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _folder(logger: Logger, tag: str) -> Path | None:
    folder = getattr(logger, "log_dir", None) or logger.save_dir
    return None if folder is None else Path(folder) / tag

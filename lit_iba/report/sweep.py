"""What a sweep found: a table of its combinations, each metric over the values of each setting, and
the heatmaps of single pictures side by side (IBA, tables 2 and 3 and figure 9).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_iba.drawing import name_beside, plain_text
from lit_iba.files import read_text, write_text
from lit_iba.heatmap import Heatmap
from lit_iba.report.plots import INK, line_color, save_figure, style_axes
from lit_iba.report.run_folder import RunFolder, read_run

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Combinations:
    """The settings that a sweep varied, one at a time (``"each"``) or all of them (``"all"``), and
    their values in each combination, by its name.
    """

    combine: str
    vary: Sequence[str]
    values: Mapping[str, Mapping[str, Any]]

    def lines(self, setting: str) -> list[tuple[str, list[tuple[Any, str]]]]:
        """Combinations that differ in one setting alone: what the other settings are, and the
        setting's values, in order, with the names of their combinations. Of the settings that are
        the same in all combinations of the sweep nothing is said. A combination that differs from
        no other in it stands alone, where there are no others that do.
        """
        groups: dict[str, list[tuple[Any, str]]] = {}
        others = [other for other in self.vary if other != setting]
        for name, values in self.values.items():
            rest = ", ".join(f"{short(other)} {values[other]}" for other in others)
            groups.setdefault(rest, []).append((values[setting], name))
        fewest = min(2, max(map(len, groups.values())))
        return [
            (rest, sorted(points, key=lambda point: _place(point[0])))
            for rest, points in groups.items()
            if len(points) >= fewest
        ]


def _place(value: Any) -> tuple[bool, float, str, str]:
    """Where a value of a setting stands among others: numbers by their size, whether whole or not,
    before all else, which goes by its kind.
    """
    if _is_number(value):
        return False, float(value), "", ""
    return True, 0.0, str(type(value)), str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(setting: str) -> str:
    """A setting as it is called in names and pictures: its last part."""
    return setting.rpartition(".")[2]


def write_sweep(folder: str | Path) -> list[Path]:
    """Write ``sweep.csv`` and ``sweep.png`` of a finished sweep, and ``panel_<key>.png`` of each
    picture of its gallery.

    Args:
        folder: The sweep's folder, with what its benchmark wrote.

    Returns:
        The files.

    Raises:
        InputError: A file is missing or damaged.
    """
    run = read_run(folder)
    note = json.loads(read_text(run.path / SWEEP, "record of a sweep"))
    found = Combinations(note["combine"], note["vary"], note["values"])
    write_text(run.path / "sweep.csv", _table(run, found))
    paths = [run.path / "sweep.csv", save_figure(_chart(run, found), run.path / "sweep.png")]
    for i, key in enumerate(run.gallery.keys if run.gallery else []):
        name = re.sub(r"[^\w.+-]", "_", key)
        paths.append(save_figure(_panel(run, found, i), run.path / f"panel_{name}.png"))
    return paths


def _table(run: RunFolder, found: Combinations) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [head for metric in run.metrics for head in (metric, f"{metric}_se")]
    writer.writerow(["combination", *found.vary, *heads, "seconds_per_image"])
    for name, values in found.values.items():
        results = [run.results[metric][name] for metric in run.metrics]
        numbers = [number for r in results for number in (r.score, r.standard_error)]
        seconds = run.explainers[name].seconds_per_image
        writer.writerow([name, *(values[s] for s in found.vary), *numbers, seconds])
    return text.getvalue()


def _chart(run: RunFolder, found: Combinations) -> Figure:
    """A row a metric and a column a setting: the score, with its standard error, over the values;
    a line for each choice of the other settings.
    """
    metrics = list(run.metrics)
    size = (2.9 * max(len(found.vary), 2), 2.3 * len(metrics) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(metrics), len(found.vary), squeeze=False, sharey="row")
    for metric, row in zip(metrics, grid, strict=True):
        for setting, axes in zip(found.vary, row, strict=True):
            _lines(axes, run, metric, found.lines(setting))
            axes.set_xlabel(plain_text(short(setting)), fontsize=8, color=INK)
        row[0].set_ylabel(plain_text(metric), fontsize=8, color=INK)
    return figure


def _lines(
    axes: Axes, run: RunFolder, metric: str, lines: list[tuple[str, list[tuple[Any, str]]]]
) -> None:
    style_axes(axes)
    every = {str(value): value for _, points in lines for value, _ in points}
    values = sorted(every.values(), key=_place)
    numbers = all(map(_is_number, values))
    place = {str(v): v if numbers else i for i, v in enumerate(values)}
    for i, (rest, points) in enumerate(lines):
        results = [run.results[metric][name] for _, name in points]
        axes.errorbar(
            [place[str(value)] for value, _ in points],
            [result.score for result in results],
            [0 if math.isnan(r.standard_error) else r.standard_error for r in results],
            color=line_color(i),
            linewidth=1.4,
            marker="o",
            markersize=3,
            capsize=2,
            label=name_beside(rest),
        )
    if numbers and values and min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    if not numbers:
        axes.set_xticks(list(place.values()), [name_beside(value) for value in place])
    if 1 < len(lines) <= 6:
        axes.legend(frameon=False, fontsize=6)


def _panel(run: RunFolder, found: Combinations, index: int) -> Figure:
    """One picture: a row for each choice of the other settings, with the maps over the values of
    the last setting; a row a setting where one is varied at a time.
    """
    gallery = run.gallery
    assert gallery is not None
    varied = found.vary if found.combine == "each" else found.vary[-1:]
    rows = [(setting, rest, points) for setting in varied for rest, points in found.lines(setting)]
    picture, drawn = gallery.pictures[index], dict[str, torch.Tensor]()
    for name, maps in gallery.heatmaps.items():
        info = run.explainers[name]
        heatmap = Heatmap(maps[index][None], info.unit, info.signed)
        drawn[name] = heatmap.with_color_bar(heatmap.overlay(picture[None]))[0]
    # The picture and all maps at one scale, whatever their colour bars take.
    widest = max(one.shape[-1] for one in drawn.values())

    def shown(one: torch.Tensor) -> Any:
        return F.pad(one, (0, widest - one.shape[-1]), value=255).permute(1, 2, 0).numpy()

    columns = max(len(points) for *_, points in rows) + 1
    height = 1.75 * picture.shape[-2] / widest + 0.2  # of a row, in inches, its title included
    figure = Figure(figsize=(1.75 * columns, height * len(rows) + 0.1), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (setting, rest, points), row in zip(rows, grid, strict=True):
        row[0].imshow(shown(picture))
        beside = rest if found.combine == "all" and rest else gallery.labels[index]
        row[0].set_title(plain_text(beside), fontsize=7, color=INK)
        for (value, name), axes in zip(points, row[1:], strict=False):
            axes.imshow(shown(drawn[name]))
            axes.set_title(plain_text(f"{short(setting)} {value}"), fontsize=7, color=INK)
    return figure

"""Figures of an uncertainty run (lit_iba.varsal.uncertainty_results), with matplotlib; no display
needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_iba.heatmap import Heatmap
from lit_iba.report.curves import COLORS_LIGHT, GREY_LIGHT

MOST_POINTS = 3000  # of a scatter plot
MEASURES = {
    "deviation": "mean deviation",
    "standardized_deviation": "deviation / spread of the mean map",
}

CONTROLS = {  # of the classifier's own prediction
    "entropy": "entropy of the prediction",
    "least_confidence": "1 - highest probability",
}

Results = Mapping[str, Any]


def condition_label(corruption: str, severity: int) -> str:
    """How a condition is called in print, such as "motion blur 5"."""
    return corruption.replace("_", " ") + (f" {severity}" if severity else "")


def severity_figure(results: Results) -> Figure:
    """Uncertainty and error over the severity of each corruption, mean and standard error over
    images.
    """
    clean, *rest = results["conditions"]
    panels = {
        "deviation_over_clean": "deviation / the clean image's",
        **MEASURES,
        "error": "low-k KL, nats",
    }
    panels.pop("deviation")
    figure, axes = _figure(len(panels))
    corruptions = list(dict.fromkeys(one["corruption"] for one in rest))
    for one, (measure, label) in zip(axes, panels.items(), strict=True):
        for place, corruption in enumerate(corruptions):
            points = [clean, *(c for c in rest if c["corruption"] == corruption)]
            x = [c["severity"] for c in points]
            y, errors = ([c[measure][part] or 0 for c in points] for part in ("mean", "se"))
            color = COLORS_LIGHT[place % len(COLORS_LIGHT)]
            one.errorbar(
                x,
                y,
                errors,
                color=color,
                marker=".",
                capsize=2,
                linewidth=1.3,
                label=corruption.replace("_", " "),
            )
        one.set(xlabel="severity (0: clean)", ylabel=label)
    if corruptions:
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside right center",
            frameon=False,
            fontsize=8,
        )
    return figure


def relation_figure(results: Results, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Error over uncertainty, a point for each image and condition; clean images stand out."""
    figure, axes = _figure(len(MEASURES))
    some = _drawn(rows)
    for one, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for clean, color, name in (
            (False, GREY_LIGHT, "corrupted"),
            (True, COLORS_LIGHT[0], "clean"),
        ):
            chosen = [row for row in some if (row["severity"] == 0) == clean]
            one.scatter(
                [r[measure] for r in chosen],
                [r["error"] for r in chosen],
                s=7,
                color=color,
                alpha=0.6,
                label=name,
            )
        found = results["all"]["correlation"][measure]["spearman"]
        one.set(xlabel=label, ylabel="low-k KL, nats")
        if found["value"] is not None:
            one.set_title(
                f"Spearman {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]",
                fontsize=9,
            )
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _drawn(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """As many rows as a plot shows, drawn at random and always the same: rows go image by image
    through the conditions, so that every n-th one may be of a few conditions alone.
    """
    if len(rows) <= MOST_POINTS:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), MOST_POINTS, replace=False)
    return [rows[i] for i in np.sort(chosen)]


def calibration_figure(results: Results) -> Figure:
    """Reliability: share of outcomes inside the predicted band over the nominal level."""
    figure, axes = _figure(max(len(results["calibration"]), 1))
    for one, found in zip(axes, results["calibration"], strict=False):
        one.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
        for which, color in (("mean_map", COLORS_LIGHT[0]), ("held_out", GREY_LIGHT)):
            label = f"{which.replace('_', ' ')}, mean rank {found[which]['mean_rank']:.2f}"
            one.plot(
                found["levels"], found[which]["coverage"], marker=".", color=color, label=label
            )
        one.set(
            xlabel="nominal level",
            ylabel="share inside the band",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        one.set_title(condition_label(found["corruption"], found["severity"]), fontsize=9)
        one.legend(frameon=False, fontsize=7)
    return figure


def abstain_figure(results: Results) -> Figure:
    """Error of the maps kept over the share kept, with blind choice and an oracle."""
    figure, axes = _figure(len(results["abstain"]))
    for one, (part, curves) in zip(axes, results["abstain"].items(), strict=True):
        for place, (measure, curve) in enumerate(curves.items()):
            label = (MEASURES | CONTROLS)[measure]
            one.plot(curve["kept"], curve["error"], color=COLORS_LIGHT[place], label=f"by {label}")
        one.axhline(curve["random"], color="grey", linewidth=0.8, label="random")
        one.plot(
            curve["kept"],
            curve["oracle"],
            color="grey",
            linestyle="--",
            linewidth=1,
            label="oracle",
        )
        one.set(xlabel="share of the maps kept", ylabel="their mean low-k KL, nats", xlim=(0, 1))
        one.set_title("clean images" if part == "clean" else "all conditions", fontsize=9)
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def figure_7(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Image, mean and deviation side by side under each condition; one row per image, deviations of
    a row on one scale.
    """
    columns = 3 * len(rows[0]["panels"])
    figure = Figure(figsize=(1.25 * columns, 1.35 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for place, (panel, (picture, mean, deviation)) in enumerate(
            zip(row["panels"], drawn(row), strict=True)
        ):
            title = condition_label(panel["corruption"], panel["severity"])
            for offset, (drawing, name) in enumerate(
                ((picture, title), (mean, "mean"), (deviation, "deviation"))
            ):
                axes = line[3 * place + offset]
                axes.imshow(drawing.permute(1, 2, 0).numpy())
                axes.set_axis_off()
                if row is rows[0]:
                    axes.set_title(name, fontsize=8)
    return figure


def drawn(row: Mapping[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Picture, mean and deviation of each panel as uint8 (3, H, W); the deviations of a row share
    their scale.

    Otherwise every deviation would look equally strong, and what the corruption does to it would
    not be seen.
    """
    means = Heatmap(torch.stack([panel["mean"] for panel in row["panels"]]), signed=True).colored()
    beside = torch.cat(
        [panel["deviation"] for panel in row["panels"]], dim=1
    )  # one map, so that there is one scale
    deviations = Heatmap(beside[None]).colored()[0].chunk(len(row["panels"]), dim=2)
    return [(p["picture"], m, d) for p, m, d in zip(row["panels"], means, deviations, strict=True)]


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.5 * panels + 1, 3.0), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes

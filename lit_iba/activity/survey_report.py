"""Tables and plots of a survey: figures 3 and S1 to S5 of Grabska-Barwińska's paper (see
survey.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_iba.files import whole_file, write_text

Results = Mapping[str, Mapping[str, Any]]
WITH_NORM, WITHOUT_NORM = "#b5502f", "#2f6db5"


def write_survey(results: Results, out: str | Path) -> list[Path]:
    """Write ``results.json``, ``survey.csv``, ``survey.md`` and the figures.

    Args:
        results: Of ``run_survey``.
        out: Folder.

    Returns:
        What was written.

    Example:
        >>> from lit_iba.activity import SurveySettings, run_survey, write_survey
        >>> from lit_iba.data import ShardIndex
        >>> settings = SurveySettings(scales=(1.0,), shifts=(0.0,), reestimate_images=0)
        >>> networks = {"small": {"model": "small_cnn", "weights": "random"}}
        >>> results = run_survey(networks, ShardIndex.load("digits/test"), "survey", settings)
        >>> "survey.md" in [path.name for path in write_survey(results, "survey")]
        True
    """
    folder = Path(out)
    ordered = dict(sorted(results.items(), key=lambda item: item[1]["biases"]))  # as in figure 3
    rows = [survey_row(name, result) for name, result in ordered.items()]
    texts = {
        "results.json": json.dumps(ordered, indent=1) + "\n",
        "survey.csv": _csv(rows),
        "survey.md": _markdown(rows),
    }
    figures = {
        "figure_3_accuracy.png": _accuracy(ordered),
        "figure_s1_scaling.png": _robustness(ordered, "scaling"),
        "figure_s2_shift.png": _robustness(ordered, "shift"),
        "figure_s3_drop.png": _drop(ordered),
        "figure_s4_correlation.png": _correlation(ordered),
        "figure_s5_regression.png": _regression(ordered),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, figure in figures.items():
        with whole_file(folder / name) as part:
            figure.savefig(part, format="png", dpi=120, facecolor="white")
    return [folder / name for name in [*texts, *figures]]


def survey_row(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """One classifier as numbers of a table."""
    before, after = result["accuracy"]["original"], result["accuracy"]["without_biases"]
    row = {
        "classifier": name,
        "images": result["images"],
        "biases": result["biases"],
        "batch_norms": result["batch_norms"],
        "top1": before[0],
        "top1_without_biases": after[0],
        "top5": before[4],
        "top5_without_biases": after[4],
        "drop_top1": result["drop_top1"]["mean"],
        "drop_top1_se": result["drop_top1"]["se"],
        "correlation": result["correlation"]["mean"],
        "slope": result["regression"]["slope"]["mean"],
        "offset": result["regression"]["offset"]["mean"],
    }
    for kind in ("scaling", "shift"):
        curve = result[kind]
        for how in ("fixed", "reestimated"):
            for place, value in enumerate(curve["values"]):
                row[f"{kind}_{value:g}_{how}"] = None if curve[how] is None else curve[how][place]
    return row


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: list[dict[str, Any]]) -> str:
    heads = [
        "classifier",
        "biases",
        "batch norms",
        "top-1",
        "without biases",
        "top-5",
        "without biases",
        "correlation",
        "slope",
        "offset",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        percent = [
            f"{100 * row[key]:.1f}"
            for key in ("top1", "top1_without_biases", "top5", "top5_without_biases")
        ]
        numbers = [f"{row[key]:.3g}" for key in ("correlation", "slope", "offset")]
        cells = [row["classifier"], str(row["biases"]), str(row["batch_norms"]), *percent, *numbers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{rows[0]['images']} images; accuracies in percent.\n"


def _figure(columns: int, rows: int = 1, classifiers: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(max(3.6, 0.42 * classifiers + 1.6) * columns, 2.9 * rows), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes


def _name(axes: Axes, results: Results) -> None:
    axes.set_xticks(range(len(results)), list(results), rotation=60, ha="right", fontsize=7)
    for label, result in zip(axes.get_xticklabels(), results.values(), strict=True):
        label.set_color(_color(result))


def _color(result: Mapping[str, Any]) -> str:
    return WITH_NORM if result["batch_norms"] else WITHOUT_NORM


def _accuracy(results: Results) -> Figure:
    """Figure 3: the bar is top-5 accuracy, its lines are top-1 to top-4; by number of biases."""
    figure, panels = _figure(1, 2, len(results))
    for axes, which, title in zip(
        panels, ("original", "without_biases"), ("original", "biases set to zero"), strict=True
    ):
        for place, result in enumerate(results.values()):
            accuracy = result["accuracy"][which]
            axes.bar(place, accuracy[-1], color=_color(result), width=0.7)
            axes.hlines(accuracy[:-1], place - 0.35, place + 0.35, color="white", linewidth=1)
        axes.set(ylim=(0, 1), ylabel="accuracy, top-1 to top-5", title=title, xticks=[])
    _name(panels[-1], results)
    figure.supxlabel("by number of biases; red: with batch norms", fontsize=8)
    return figure


def _robustness(results: Results, kind: str) -> Figure:
    """Figures S1 and S2: top-1 accuracy over the factor or the shift of the input."""
    with_norms = [result for result in results.values() if result[kind]["reestimated"] is not None]
    figure, panels = _figure(2 if with_norms else 1, 1, 6)
    palette = colormaps["turbo"]
    for axes, how in zip(panels, ("fixed", "reestimated"), strict=False):
        for place, (name, result) in enumerate(results.items()):
            curve = result[kind]
            if curve[how] is not None:
                style = "-" if result["batch_norms"] else "--"
                color = palette((place + 0.5) / len(results))
                axes.plot(
                    curve["values"],
                    curve[how],
                    style,
                    color=color,
                    linewidth=1.3,
                    marker=".",
                    label=name,
                )
        if kind == "scaling":
            axes.set_xscale("log")
        axes.set(
            ylim=(0, 1),
            xlabel="factor of the input" if kind == "scaling" else "shift, in ranges of the pixels",
        )
        axes.set_title(
            "batch norms as published" if how == "fixed" else "batch norms measured again",
            fontsize=9,
        )
    panels[0].set_ylabel("top-1 accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=7)
    return figure


def _drop(results: Results) -> Figure:
    """Figure S3: what removing the biases costs, mean and standard error over images."""
    figure, (axes,) = _figure(1, 1, len(results))
    for place, result in enumerate(results.values()):
        drop = result["drop_top1"]
        axes.errorbar(
            place,
            100 * drop["mean"],
            100 * (drop["se"] or 0),
            fmt="o",
            color=_color(result),
            capsize=3,
        )
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set_ylabel("loss of top-1 accuracy, %")
    _name(axes, results)
    return figure


def _correlation(results: Results) -> Figure:
    """Figure S4: correlation of outputs over classes, mean over images."""
    figure, (axes,) = _figure(1, 1, len(results))
    for place, result in enumerate(results.values()):
        axes.bar(
            place,
            result["correlation"]["mean"],
            yerr=result["correlation"]["se"],
            color=_color(result),
            width=0.7,
        )
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set(
        ylim=(min(0, *(r["correlation"]["mean"] for r in results.values())), 1),
        ylabel="correlation of outputs",
    )
    _name(axes, results)
    return figure


def _regression(results: Results) -> Figure:
    """Figure S5: scale and offset of the regression of the bias-free output on the original one,
    image by image.
    """
    figure, panels = _figure(2, 1, len(results))
    for axes, which in zip(panels, ("slope", "offset"), strict=True):
        values = [result["regression"][which]["values"] for result in results.values()]
        axes.boxplot(
            values,
            positions=range(len(values)),
            widths=0.6,
            showfliers=False,
            medianprops={"color": "black"},
        )
        axes.axhline(1 if which == "slope" else 0, color="grey", linewidth=0.6)
        axes.set_ylabel("scale" if which == "slope" else "offset")
        _name(axes, results)
    return figure

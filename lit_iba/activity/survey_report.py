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
# Of figure 8: what is compared, its colour there, and what it is called.
SIMILAR = (
    ("bias", "#2f6db5", "its bias attribution"),
    ("without_biases", "#d97b1f", "the network with its biases set to zero"),
    ("decayed", "#3b8f4a", "the network after zero-bias decay"),
)


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
        "survey.md": _markdown(rows) + _robustness_table(ordered) + _similarity_tables(ordered),
    }
    figures = {
        "figure_3_accuracy.png": _accuracy(ordered),
        "figure_s1_scaling.png": _robustness(ordered, "scaling"),
        "figure_s2_shift.png": _robustness(ordered, "shift"),
        "figure_s3_drop.png": _drop(ordered),
        "figure_s4_correlation.png": _correlation(ordered),
        "figure_s5_regression.png": _regression(ordered),
    }
    similar = {name: result for name, result in ordered.items() if result.get("similarity")}
    if similar:
        figures["figure_8_similarity.png"] = _similarity(similar)
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
    said = f"{rows[0]['images']} images; accuracies in percent."
    return "\n".join(lines) + f"\n\n{said}\n"


def _robustness_table(results: Results) -> str:
    """Figures S1 and S2 in numbers: top-1 for scaled and shifted inputs, and where batch norms were
    measured again, that behind a slash.
    """
    curves = [(kind, result[kind]) for kind in ("scaling", "shift") for result in results.values()]
    signs = {"scaling": "x", "shift": "+"}
    heads = list(
        dict.fromkeys(f"{signs[k]} {value:g}" for k, curve in curves for value in curve["values"])
    )
    lines = [
        "",
        "| top-1 of inputs | " + " | ".join(heads) + " |",
        "|---" + "|---:" * len(heads) + "|",
    ]
    for name, result in results.items():
        cells = dict.fromkeys(heads, "")
        for kind, sign in signs.items():
            curve = result[kind]
            for place, value in enumerate(curve["values"]):
                found = [curve[how][place] for how in ("fixed", "reestimated") if curve[how]]
                cells[f"{sign} {value:g}"] = " / ".join(f"{100 * share:.1f}" for share in found)
        lines.append(f"| {name} | " + " | ".join(cells.values()) + " |")
    return "\n".join(lines) + "\n"


def _similarity_tables(results: Results) -> str:
    """Figure 8 in numbers, a table a network: medians, with the 10th and 90th percentiles."""
    text = ""
    for name, result in results.items():
        found = result.get("similarity")
        if not found:
            continue
        asked = [(which, label) for which, _, label in SIMILAR if which in found]
        lines = [
            "",
            f"| {name}: activity against | " + " | ".join(label for _, label in asked) + " |",
        ]
        lines.append("|---" + "|---:" * len(asked) + "|")
        for place, layer in enumerate(found["layers"]):
            cells = []
            for which, _ in asked:
                low, middle, high = (
                    found[which][part][place] for part in ("low", "median", "high")
                )
                cells.append("" if middle is None else f"{middle:.2f} ({low:.2f} to {high:.2f})")
            lines.append(f"| {layer} | " + " | ".join(cells) + " |")
        text += "\n".join(lines) + "\n"
    return text


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


def _similarity(results: Results) -> Figure:
    """Figure 8: correlation of a layer's activity attribution with its bias attribution and with
    those of the network without biases; median, and 10th to 90th percentile over images.
    """
    figure, panels = _figure(min(3, len(results)), -(-len(results) // 3), 6)
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    for axes, (name, result) in zip(panels, results.items(), strict=False):
        found = result["similarity"]
        places = range(1, len(found["layers"]) + 1)
        for which, color, label in SIMILAR:
            if which in found:
                low, middle, high = (
                    [float("nan") if v is None else v for v in found[which][part]]
                    for part in ("low", "median", "high")
                )
                axes.fill_between(places, low, high, color=color, alpha=0.15, lw=0)
                axes.plot(places, middle, color=color, marker=".", linewidth=1.3, label=label)
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.set(ylim=(-1, 1.02), xlabel="layer")
        axes.set_title(name, fontsize=9)
    panels[0].set_ylabel("correlation with the activity's map", fontsize=8)
    handles, labels = max((p.get_legend_handles_labels() for p in panels), key=lambda h: len(h[0]))
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
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

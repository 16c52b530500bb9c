"""Writes an uncertainty run: results.json, CSV, Markdown, plots, and one page with VarSal's figure
7.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lit_iba.files import whole_file, write_text
from lit_iba.report.markdown import code_block
from lit_iba.report.naming import ABSENT, number
from lit_iba.report.page import document
from lit_iba.report.pictures import photograph_uri, picture_uri, png_uri
from lit_iba.report.run_folder import RESULTS, RunFolder
from lit_iba.report.templates import render
from lit_iba.varsal.uncertainty_plots import (
    CONTROLS,
    MEASURES,
    abstain_figure,
    calibration_figure,
    condition_label,
    drawn,
    figure_7,
    relation_figure,
    severity_figure,
)

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
TITLE = "Uncertainty over explanations"
READING = {
    "figure_7": (
        "Image, mean (red: kept longest, blue: dropped first) and standard deviation of the"
        " posterior over maps. The deviations of an image share one scale; each mean has its own."
    ),
    "severity": (
        "What corruption does to the uncertainty and to the error. The error of a map is the KL"
        " divergence from the image's own prediction without the k % least salient pixels, averaged"
        " over k; the prediction is that of the corrupted image. Border: Spearman's correlation"
        " over the pixels of the deviation and the size of the mean map's gradient; above 0, a map"
        " is less certain where it changes."
    ),
    "relation": (
        "Do uncertain maps err more? A point is an image under a condition. The scale of a map is"
        " free, so that the deviation divided by the spread of the mean map over the pixels stands"
        " beside it. The control is what the classifier's own prediction says of its doubt; the"
        " last column is the rank correlation that is left given its entropy: what the deviation"
        " knows besides. Intervals: 95 % bootstrap over images."
    ),
    "calibration": (
        "How often the error of the mean map lies in the central band of the errors of maps sampled"
        " from the posterior. On the diagonal the samples fare as the mean does; a mean rank below"
        " 1/2 says that the mean is better than its samples. A held-out sample must lie on the"
        " diagonal up to chance: it checks the measurement."
    ),
    "abstain": (
        "Mean error of the maps kept when the most uncertain are withheld. Gain: 1 is an oracle"
        " that knows the errors, 0 is blind choice, below 0 is worse than that."
    ),
}


def write_uncertainty(results: Results, rows: Rows, figure: Rows, out: str | Path) -> list[Path]:
    """Write everything.

    Args:
        results: Of ``results_of``.
        rows: Of ``table_rows``.
        figure: Of ``lit_iba.varsal.uncertainty_run.figure_7``; may be empty.
        out: Folder.

    Returns:
        What was written.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> from lit_iba.varsal import UncertaintySettings, run_uncertainty, write_uncertainty
        >>> from lit_iba.varsal.uncertainty_results import results_of, table_rows
        >>> settings = UncertaintySettings(
        ...     ("brightness",), severities=(3,), samples=0, percentages=(50,), gallery=0,
        ...     resamples=20,
        ... )
        >>> data, trained = ShardIndex.load("digits/test"), {"checkpoint": "runs/varsal/last.ckpt"}
        >>> found = run_uncertainty(classifier, "varsal", trained, data, "run", settings)
        >>> results, rows = results_of(found, settings), table_rows(found, settings)
        >>> files = write_uncertainty(results, rows, [], "run")
        >>> any(file.suffix == ".json" for file in files)
        True
    """
    folder = Path(out)
    figures: dict[str, Figure] = {"figure_7": figure_7(figure)} if figure else {}
    figures |= {"severity": severity_figure(results), "relation": relation_figure(results, rows)}
    figures |= {"calibration": calibration_figure(results)} if results["calibration"] else {}
    figures |= {"abstain": abstain_figure(results)}
    plots = {name: _png(one) for name, one in figures.items()}
    for name, content in plots.items():
        with whole_file(folder / f"{name}.png") as part:
            part.write_bytes(content)
    texts = {
        "uncertainty.csv": _csv(rows),
        "uncertainty.md": _markdown(results, list(plots)),
        "uncertainty.html": page(results, plots, figure),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    RunFolder.write(folder, results)
    return [
        folder / RESULTS,
        *(folder / name for name in texts),
        *(folder / f"{name}.png" for name in plots),
    ]


def condition_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: one row per condition, and one for all."""
    heads = [
        "condition",
        "images",
        "deviation",
        "× clean",
        "standardised",
        "border",
        "low-k KL",
        "Spearman",
        "Pearson",
        "Spearman, standardised",
        "Pearson, standardised",
    ]
    table = []
    for found in results["conditions"]:
        parts = [
            _with_error(found[key])
            for key in (
                "deviation",
                "deviation_over_clean",
                "standardized_deviation",
                "border",
                "error",
            )
        ]
        name = condition_label(found["corruption"], found["severity"])
        table.append([name, str(found["images"]), *parts, *_correlations(found)])
    table.append(
        [
            "all",
            str(results["conditions"][0]["images"]),
            *[ABSENT] * 5,
            *_correlations(results["all"]),
        ]
    )
    return heads, table


def relation_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: correlations with the error, of the uncertainties and of their controls."""
    heads = ["maps", "measure", "Spearman", "Pearson", "Spearman given entropy"]
    table = []
    for part, found in (("clean", results["conditions"][0]), ("all conditions", results["all"])):
        for measure, relations in found["correlation"].items():
            cells = [
                _interval(relations[kind]) if kind in relations else ABSENT
                for kind in ("spearman", "pearson", "spearman_given_entropy")
            ]
            table.append([part, (MEASURES | CONTROLS)[measure], *cells])
    return heads, table


def abstain_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: areas below the abstain curves."""
    heads = ["maps", "withheld by", "area", "oracle", "random", "gain"]
    table = []
    for part, curves in results["abstain"].items():
        for measure, curve in curves.items():
            numbers = [curve[key] for key in ("area", "oracle_area", "random", "gain")]
            cells = [ABSENT if value is None else number(value) for value in numbers]
            table.append(
                [
                    "clean" if part == "clean" else "all conditions",
                    (MEASURES | CONTROLS)[measure],
                    *cells,
                ]
            )
    return heads, table


def calibration_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: coverage at each nominal level."""
    levels = results["calibration"][0]["levels"] if results["calibration"] else []
    heads = ["condition", "tested", "mean rank", *(f"{100 * level:.0f} %" for level in levels)]
    table = []
    for found in results["calibration"]:
        for which, name in (("mean_map", "mean map"), ("held_out", "held-out sample")):
            shares = [f"{100 * share:.0f} %" for share in found[which]["coverage"]]
            label = condition_label(found["corruption"], found["severity"])
            table.append([label, name, f"{found[which]['mean_rank']:.3f}", *shares])
    return heads, table


TABLES = {
    "severity": condition_table,
    "relation": relation_table,
    "calibration": calibration_table,
    "abstain": abstain_table,
}
NAMES = {
    "figure_7": "Figure 7",
    "severity": "Corruption",
    "relation": "Uncertainty and error",
    "calibration": "Calibration",
    "abstain": "Abstaining",
}


def _with_error(value: Mapping[str, float | None]) -> str:
    mean, error = value["mean"], value["se"]
    return f"{number(mean or 0.0)} ± {ABSENT if error is None else number(error)}"


def _correlations(found: Mapping[str, Any]) -> list[str]:
    cells = []
    for measure in MEASURES:
        for kind in ("spearman", "pearson"):
            cells.append(_interval(found["correlation"][measure][kind]))
    return cells


def _interval(one: Mapping[str, float | None]) -> str:
    """A correlation with its bootstrap interval."""
    if one["value"] is None:
        return ABSENT
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(results: Results, plots: Sequence[str]) -> str:
    parts = [f"# {TITLE}"]
    for name in plots:
        parts += [f"## {NAMES[name]}", READING[name], f"![{NAMES[name]}]({name}.png)"]
        if name in TABLES:
            heads, table = TABLES[name](results)
            lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *table]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts += ["## Reproduce", code_block(str(results["command"]))]
    return "\n\n".join(parts) + "\n"


def page(results: Results, plots: Mapping[str, bytes], figure: Rows) -> str:
    """The whole page, from results, PNG files by section, and the rows of figure 7."""
    sections = []
    for name, content in plots.items():
        heads, table = TABLES[name](results) if name in TABLES else ([], [])
        body = render(
            "varsal/uncertainty.html",
            name=NAMES[name],
            reading=READING[name],
            rows=[_figure_row(row) for row in figure] if name == "figure_7" else [],
            plot="" if name == "figure_7" else png_uri(content),
            heads=heads,
            table=table,
        )
        sections.append((name, NAMES[name], body))
    about = json.dumps(
        {key: results[key] for key in ("classifier", "explainer", "data", "settings")}, indent=1
    )
    reproduce = render("varsal/uncertainty_reproduce.html", command=results["command"], about=about)
    sections.append(("reproduce", "Reproduce", reproduce))
    facts = [
        ("classifier", results["classifier"].get("model")),
        ("explainer", results["explainer"]["class"]),
        ("images", results["data"]["used"]),
        ("conditions", len(results["conditions"])),
    ]
    return document(TITLE, facts, sections, str(results["created"]))


def _figure_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One image: its conditions from left to right; image, mean and deviation from top to bottom,
    as in the paper.
    """
    pictures, means, deviations = zip(*drawn(row), strict=True)
    return {
        "key": row["key"],
        "labels": [
            condition_label(panel["corruption"], panel["severity"]) for panel in row["panels"]
        ],
        "lines": [
            ("image", [photograph_uri(picture) for picture in pictures]),
            ("mean", [picture_uri(mean) for mean in means]),
            ("deviation", [picture_uri(deviation) for deviation in deviations]),
        ],
    }

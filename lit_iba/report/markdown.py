"""The report as Markdown, for a repository or a log book; its plots are PNG files beside it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_iba.report.answer import answer
from lit_iba.report.decomposition import HEADS, LEAD, cells, read_decompositions
from lit_iba.report.naming import (
    ABSENT,
    interval,
    method_labels,
    number,
    p_value,
    printed,
    seconds,
    settings_text,
    sum_error,
    unit_text,
)
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.runs import compare_runs
from lit_iba.report.tables import (
    MetricRow,
    MetricTable,
    agreement_note,
    interval_note,
    overview_order,
    published_notes,
    rule_note,
    samples_of,
    shortfalls,
)


def markdown(
    run: RunFolder,
    tables: list[MetricTable],
    plots: Mapping[str, list[Path]],
    title: str,
    others: Sequence[RunFolder] = (),
) -> str:
    """The whole document.

    Args:
        run: What was read from the run folder.
        tables: The metrics' tables.
        plots: Per metric, the PNG files to show, inside the run folder.
        title: Heading.
        others: Runs that this one is compared with.
    """
    parts = [f"# {plain(title)}", *(f"> {plain(text)}" for text in shortfalls(run))]
    said, samples = answer(run, tables), samples_of(run, tables)
    parts += [f"**{plain(said.headline)}**"] if said.headline else []
    parts += [f"- {plain(tables[i].label)}: {plain(sentence)}" for i, sentence in said.verdicts]
    parts += ["Before you compare:"] if said.cautions else []
    parts += [f"- {plain(text)}" for text in said.cautions]
    parts += _runs(run, others) if others else []
    parts += [
        "## Results",
        _overview(run, tables),
        f"Mean ± standard error over the {samples}. {plain(rule_note(samples))}",
    ]
    for table in tables:
        parts += _metric(table, run, plots.get(table.name, []))
    parts += _decomposition(run)
    parts += [
        "## Methods",
        _methods(run),
        "## Reproduce",
        code_block(run.command or "(no command was recorded)"),
    ]
    parts += ["### Classifier", _identity(run.classifier), "### Data", _identity(run.data)]
    parts += ["### Configuration", code_block(run.config)] if run.config else []
    parts += [f"Results of {plain(run.created)}."] if run.created else []
    return "\n\n".join(parts) + "\n"


def _runs(run: RunFolder, others: Sequence[RunFolder]) -> list[str]:
    compared = compare_runs(run, others)
    parts = ["## Runs", *(f"- {plain(text)}" for text in (*compared.verdicts, *compared.cautions))]
    signs = {1: "▲ ", -1: "▽ ", 0: "≈ ", None: ""}
    for metric in compared.metrics:
        rows = [
            [
                plain(label),
                *(
                    ABSENT
                    if c is None
                    else signs[c.ahead]
                    + number(c.result.score)
                    + (f" (n = {c.result.n})" if metric.counts_differ else "")
                    for c in cells
                ),
            ]
            for label, cells in metric.rows
        ]
        heads = [f"{plain(metric.label)}", *map(plain, compared.labels)]
        parts.append(_rows(heads, rows))
    return parts


def plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no table column of its own, on one
    line.
    """
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$" else letter for letter in text)


def code_block(text: str) -> str:
    """A fenced block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _rows(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _score(row: MetricRow) -> str:
    text = number(row.result.score)
    text = f"**{text}**" if row.bold else f"≈ {text}" if row.tied else text
    counted = f" ({row.counted})" if row.counted else ""
    return f"{text} ± {number(row.result.standard_error)}{counted}"


def _overview(run: RunFolder, tables: list[MetricTable]) -> str:
    heads = [
        "Method",
        *(f"{plain(table.label)} {_arrow(table)}" for table in tables),
        f"Time per {run.sample}",
    ]
    rows = []
    for name, label in overview_order(run, tables):
        found = [next((row for row in table.rows if row.name == name), None) for table in tables]
        scores = [_score(row) if row else ABSENT for row in found]
        rows.append([plain(label), *scores, seconds(run.explainers[name].seconds_per_image)])
    return _rows(heads, rows)


def _arrow(table: MetricTable) -> str:
    return "↓" if table.info.better == "lower" else "↑"


def _metric(table: MetricTable, run: RunFolder, plots: list[Path]) -> list[str]:
    heads = [
        "Method",
        f"Ours {_arrow(table)}",
        "95 % interval",
        "Published (not ours)",
        "p against the best",
        "n",
        f"Time per {run.sample}",
    ]
    rows = [
        [
            plain(row.label),
            _score(row),
            interval(row.interval),
            _published(row),
            plain(p_value(row.adjusted_p)),
            *_counts(row),
        ]
        for row in table.rows
    ]
    parts = [f"## {plain(table.label)}"]
    parts += [f"{plain(table.info.definition)}"] if table.info.definition else []
    parts += [
        f"{table.info.better.capitalize()} is better. {plain(table.verdict)}",
        _rows(heads, rows),
    ]
    parts += [plain(agreement_note(table))] if agreement_note(table) else []
    parts += [
        plain(f"{rule_note(table.samples)} {interval_note(table.samples)}"),
        *(plain(note) for note in published_notes(table, run)),
    ]
    parts += [f"![{plain(table.label)}]({path.relative_to(run.path).as_posix()})" for path in plots]
    extras = list(dict.fromkeys(name for row in table.rows for name in row.result.extra))
    if extras:
        lines = [
            [plain(row.label), *(number(row.result.extra.get(name, math.nan)) for name in extras)]
            for row in table.rows
        ]
        parts += ["Further quantities:", _rows(["Method", *map(plain, extras)], lines)]
    return parts


def _counts(row: MetricRow) -> tuple[str, str]:
    return str(row.result.n), seconds(row.seconds_per_image)


def _published(row: MetricRow) -> str:
    item = row.published
    if item is None:
        return ABSENT
    where = f"{item.network_label}, {item.source}, {item.table}"
    return f"*{plain(printed(item))}* ({plain(where)})"


def _methods(run: RunFolder) -> str:
    labels = method_labels(run.explainers)
    rows = [
        [
            plain(labels[name]),
            plain(name),
            plain(settings_text(info.known)) or "defaults",
            plain(unit_text(info)),
            sum_error(info),
        ]
        for name, info in run.explainers.items()
    ]
    return _rows(["Method", "Name", "Settings", "Values", "Error of its sum"], rows)


def _decomposition(run: RunFolder) -> list[str]:
    found = read_decompositions(run.path / "panels")
    if found is None:
        return []
    pictures = [
        f"![{plain(name)}]({file.relative_to(run.path).as_posix()})"
        for name, file in found.figures.items()
    ]
    table = _rows(list(HEADS), [[plain(cell) for cell in cells(row)] for row in found.rows])
    note = f"Means over {len(found.figures)} images, in logits. {found.verdict}"
    return ["## Decomposition by layers", LEAD, *pictures, table, plain(note)]


def _identity(values: Mapping[str, Any]) -> str:
    return (
        "\n".join(f"- {plain(str(name))}: {plain(str(value))}" for name, value in values.items())
        or "Not recorded."
    )

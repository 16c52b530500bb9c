r"""The tables in LaTeX with booktabs: ``\input{report}`` in a document that loads ``booktabs``.

First every method by every metric; then, for each metric that a paper has numbers of, ours beside
the published ones.
"""

from __future__ import annotations

from lit_iba.report.naming import interval, number, printed
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.tables import (
    MetricRow,
    MetricTable,
    agreement_note,
    overview_order,
    published_notes,
    samples_of,
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "²": r"$^2$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "ε": r"$\epsilon$",
    "≈": r"$\approx$",
    "–": "--",
    "−": r"$-$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "≤": r"$\le$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "◇": r"$\diamond$",
    "δ": r"$\delta$",
    "\u202f": r"\,",
    "[": "{[}",  # at the start of a row, [ and * would be arguments of the row before
    "*": "{*}",
}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def latex(run: RunFolder, tables: list[MetricTable], title: str) -> str:
    """All tables, bold by the rule of :mod:`lit_iba.report.tables`."""
    beside = [
        _beside_published(run, table)
        for table in tables
        if any(row.published for row in table.rows)
    ]
    return "\n".join(["% needs \\usepackage{booktabs}", _overview(run, tables, title), *beside])


def _overview(run: RunFolder, tables: list[MetricTable], title: str) -> str:
    """One row per method, one column per metric."""
    heads = [
        latex_text(table.label)
        + (r" $\downarrow$" if table.info.better == "lower" else r" $\uparrow$")
        for table in tables
    ]
    lines = []
    for name, label in overview_order(run, tables):
        found = [next((row for row in table.rows if row.name == name), None) for table in tables]
        lines.append(" & ".join([latex_text(label), *(_cell(row) for row in found)]) + r" \\")
    model = str(run.classifier.get("model") or "")
    caption = (
        f"{title}{'' if model in title else f', {model}'}. Mean ± standard error over the "
        f"{samples_of(run, tables)}; "
    )
    caption += "bold: best and separated from every other method "
    caption += "(paired Wilcoxon signed-rank test, Holm-corrected over all pairs, p < 0.05)."
    return _table(caption, "l" + "r" * len(tables), ["Method", *heads], lines)


def _beside_published(run: RunFolder, table: MetricTable) -> str:
    lines = []
    for row in table.rows:
        item = row.published
        published = "--" if item is None else rf"\textit{{{latex_text(printed(item))}}}"
        cells = [latex_text(row.label), _cell(row), latex_text(interval(row.interval)), published]
        lines.append(" & ".join(cells) + r" \\")
    notes = " ".join(text for text in (agreement_note(table), *published_notes(table, run)) if text)
    caption = (
        f"{table.label}: ours (mean ± standard error, 95 % bootstrap interval) beside published"
        f" numbers. {notes}"
    )
    return _table(caption, "lrrr", ["Method", "Ours", "Interval", "Published"], lines)


def _table(caption: str, columns: str, heads: list[str], lines: list[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(caption)}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            "    " + " & ".join(heads) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _cell(row: MetricRow | None) -> str:
    if row is None:
        return "--"
    score, error = (
        latex_text(number(row.result.score)),
        latex_text(number(row.result.standard_error)),
    )
    score = rf"\textbf{{{score}}}" if row.bold else score
    counted = f" ({row.counted})" if row.counted else ""
    return rf"{score} {{\footnotesize $\pm$ {error}{counted}}}"

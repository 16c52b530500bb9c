r"""The main table in LaTeX with booktabs: ``\input{report}`` in a document that loads ``booktabs``."""

from __future__ import annotations

from lit_iba.report.naming import number
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.tables import MetricRow, MetricTable, overview_order

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "×": r"$\times$", "²": r"$^2$", "α": r"$\alpha$", "β": r"$\beta$", "ε": r"$\epsilon$", "≈": r"$\approx$", "–": "--",
    "−": r"$-$", "±": r"$\pm$", "∞": r"$\infty$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def latex(run: RunFolder, tables: list[MetricTable], title: str) -> str:
    """The table environment: a row a method, a column a metric, bold by the rule of :mod:`lit_iba.report.tables`."""
    heads = [
        latex_text(table.label) + (r" $\downarrow$" if table.info.better == "lower" else r" $\uparrow$")
        for table in tables
    ]
    lines = []
    for name, label in overview_order(run, tables):
        found = [next((row for row in table.rows if row.name == name), None) for table in tables]
        lines.append(" & ".join([latex_text(label), *(_cell(row) for row in found)]) + r" \\")
    model = str(run.classifier.get("model") or "")
    caption = f"{title}{'' if model in title else f', {model}'}. Mean ± standard error over the images; "
    caption += "bold: best and separated from every other method "
    caption += "(paired Wilcoxon signed-rank test, Holm-corrected, p < 0.05)."
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(caption)}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(tables)}}}",
            r"    \toprule",
            "    " + " & ".join(["Method", *heads]) + r" \\",
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
    score, error = latex_text(number(row.result.score)), latex_text(number(row.result.standard_error))
    score = rf"\textbf{{{score}}}" if row.bold else score
    return rf"{score} {{\footnotesize $\pm$ {error}}}"

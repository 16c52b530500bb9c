"""The last sections of the page: what was run and how, how to read it, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lit_iba.report.naming import method_labels, seconds, settings_text, sum_error, unit_text
from lit_iba.report.page_parts import method_cell, sortable
from lit_iba.report.run_folder import RunFolder

GUIDE = (
    ("Mean ± standard error", "Every score is the mean over n images; ± is one standard error of that mean."),
    (
        "Bold and ≈",
        "Bold is given only where the best method beats every other one image by image (paired Wilcoxon test, "
        "Holm-corrected). "
        "≈ marks methods that the data cannot tell from the best.",
    ),
    (
        "Bits",
        "The maps of information bottlenecks are in bits: how much of the network's own information a pixel may have "
        "passed on, at most. Zero bits means: not needed. Other methods only rank pixels; their values have no unit.",
    ),
    (
        "◇ Published",
        "Italic numbers on grey are printed in papers and not measured here. They compare only where network, weights, "
        "data and settings are the same.",
    ),
    (
        "Heatmaps",
        "Bright covers the picture where attribution is strong. Signed maps are red for the class and blue against it. "
        "Each map has its own scale, up to its 99.9th percentile.",
    ),
    ("Boxes", "White outlines are the annotated objects. No method sees them; only metrics do."),
)


def guide_section() -> str:
    """How to read this page."""
    items = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in GUIDE)
    return f'<h2>How to read this page</h2><dl class="guide">{items}</dl>'


def methods_section(run: RunFolder, colors: Mapping[str, int]) -> str:
    """Every method with its name in the config, its settings, unit and cost."""
    labels = method_labels(run.explainers)
    rows = []
    for name, info in run.explainers.items():
        cost = info.seconds_per_image
        rows.append(
            f'<tr><th scope="row">{method_cell(labels[name], colors[name])}</th>'
            f'<td class="text"><code>{escape(name)}</code></td>'
            f'<td class="text"><code>{escape(settings_text(info.settings)) or "defaults"}</code></td>'
            f'<td class="text">{escape(unit_text(info))}</td>'
            f'<td data-value="{info.completeness_error!r}">{sum_error(info)}</td>'
            f'<td data-value="{cost!r}">{seconds(cost)}</td></tr>'
        )
    heads = [sortable("Method", "ascending"), sortable("Name", "ascending"), sortable("Settings", "ascending")]
    heads += [sortable("Values", "ascending")]
    heads += [sortable("Error", "ascending", "of the promised sum"), sortable("Time", "ascending", "an image")]
    for i in (1, 2, 3):
        heads[i] = heads[i].replace('scope="col"', 'scope="col" class="text"', 1)
    return (
        f'<h2>Methods</h2><div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def reproduction_section(run: RunFolder) -> str:
    """Command, classifier, data and config that made the numbers."""
    command = f'<pre class="command">{escape(run.command)}</pre>' if run.command else "<p>No command was recorded.</p>"
    config = f"<details><summary>Configuration</summary><pre>{escape(run.config)}</pre></details>" if run.config else ""
    return (
        f"<h2>Reproduce</h2><h3>Command</h3>{command}{config}"
        f"<h3>Classifier</h3>{_identity(run.classifier)}<h3>Data</h3>{_identity(run.data)}"
    )


def _identity(values: Mapping[str, Any]) -> str:
    if not values:
        return "<p>Not recorded.</p>"
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items())
    return f'<dl class="identity">{items}</dl>'

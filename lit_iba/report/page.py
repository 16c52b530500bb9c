"""The report as one HTML file that needs nothing else: style, script, drawings and pictures are inside it.

Everything that comes from data (names, keys, commands, settings) passes through ``html.escape``, and the page's own
content security policy forbids whatever it does not bring along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

from lit_iba.report.curves import COLORS_DARK, COLORS_LIGHT, GREY_DARK, GREY_LIGHT, colors_of
from lit_iba.report.decomposition import decomposition_section, read_decompositions
from lit_iba.report.naming import number, seconds
from lit_iba.report.page_gallery import gallery_section
from lit_iba.report.page_metrics import metric_section
from lit_iba.report.page_parts import anchor, better_text, method_cell, score_cell, sortable
from lit_iba.report.page_provenance import guide_section, methods_section, reproduction_section
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.tables import RULE, MetricTable, overview_order, shortfalls


def page(run: RunFolder, tables: list[MetricTable], title: str, pictures: int) -> str:
    """The whole page.

    Args:
        run: What was read from the run folder.
        tables: The metrics' tables (:func:`lit_iba.report.tables.build_tables`).
        title: Heading.
        pictures: How many gallery pictures to show at most.
    """
    colors = colors_of(list(run.explainers))
    sections = [("results", "Results", _results(run, tables, colors))]
    gallery = gallery_section(run, tables, colors, pictures)
    sections += [("pictures", "Pictures", gallery)] if gallery else []
    sections += [
        (anchor("metric", i), table.label, metric_section(table, run, colors)) for i, table in enumerate(tables)
    ]
    decompositions = read_decompositions(run.path / "panels")
    sections += [("layers", "Layers", decomposition_section(decompositions))] if decompositions else []
    sections += [
        ("methods", "Methods", methods_section(run, colors)),
        ("guide", "How to read", guide_section()),
        ("reproduce", "Reproduce", reproduction_section(run)),
    ]
    return document(title, _facts(run), sections, run.created, _notices(run))


def document(
    title: str, facts: str, sections: Sequence[tuple[str, str, str]], created: str = "", notices: str = ""
) -> str:
    """A page of this style.

    Args:
        title: Heading.
        facts: HTML of the line below it.
        sections: Anchor, name in the navigation (text) and content (HTML) of each.
        created: When the results were made.
        notices: HTML of warnings at the top.
    """
    return Template(_file("page.html")).substitute(
        title=escape(title),
        colors=_color_rules(),
        style=_file("page.css"),
        script=_file("page.js"),
        facts=facts,
        notices=notices,
        navigation="".join(f'<a href="#{name}">{escape(text)}</a>' for name, text, _ in sections),
        sections="\n".join(f'<section id="{name}">{body}</section>' for name, _, body in sections),
        created=f", from results of {escape(created)}" if created else "",
    )


def _file(name: str) -> str:
    return resources.files("lit_iba.report").joinpath(name).read_text(encoding="utf-8")


def _color_rules() -> str:
    """A class a colour, and the dark values both for the system's wish and for the reader's."""

    def rules(colors: tuple[str, ...], grey: str, scope: str) -> str:
        named = [*((f"c{i}", color) for i, color in enumerate(colors)), ("cx", grey)]
        return "".join(f"{scope} .{name}{{--c:{color}}}" for name, color in named)

    dark = (
        "--paper:#141416;--raised:#1b1b1e;--sunken:#202024;--ink:#ecebe6;--soft:#a9a8a1;--faint:#7d7c76;--rule:#2e2e32;"
        "--rule-strong:#4a4a50;--accent:#6cb8ee;--warn:#f0c870;--warn-bg:#2e2714;color-scheme:dark"
    )
    scoped = ':root:not([data-theme="light"])'
    return (
        rules(COLORS_LIGHT, GREY_LIGHT, "")
        + f"@media (prefers-color-scheme:dark){{{scoped}{scoped}{{{dark}}}{rules(COLORS_DARK, GREY_DARK, scoped)}}}"
        + f'html:root[data-theme="dark"]{{{dark}}}'
        + rules(COLORS_DARK, GREY_DARK, ':root[data-theme="dark"]')
        + ':root[data-theme="light"]{color-scheme:light}'
    )


def _facts(run: RunFolder) -> str:
    facts = [("classifier", run.classifier.get("model")), ("weights", run.classifier.get("weights"))]
    facts += [("images", run.data.get("used", run.data.get("images"))), ("data", run.data.get("source"))]
    facts += [("methods", len(run.explainers)), ("metrics", len(run.results))]
    shown = [(name, value) for name, value in facts if value not in (None, "")]
    return "".join(f"<span>{name} <b>{escape(str(value))}</b></span>" for name, value in shown)


def _notices(run: RunFolder) -> str:
    texts = shortfalls(run)
    return f'<p class="notice">{escape(" ".join(texts))}</p>' if texts else ""


def _results(run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int]) -> str:
    cards = "".join(_card(table, colors, i) for i, table in enumerate(tables))
    if not tables:
        return "<h2>Results</h2><p>results.json holds no metric.</p>"
    return f'<h2>Results</h2><div class="cards">{cards}</div>{_overview(run, tables, colors)}'


def _card(table: MetricTable, colors: Mapping[str, int], index: int) -> str:
    head = (
        f'<h3><a href="#{anchor("metric", index)}">{escape(table.label)}</a><span>{better_text(table.info)}</span></h3>'
    )
    best = table.best
    if best is None:
        return f'<div class="card">{head}<p class="verdict">{escape(table.remark)}</p></div>'
    return (
        f'<div class="card">{head}<p class="big">{number(best.result.score)}'
        f"<small>± {number(best.result.standard_error)}</small></p>"
        f'<p class="who">{method_cell(best.label, colors[best.name])}</p>'
        f'<p class="verdict">{escape(table.remark)}</p></div>'
    )


def _overview(run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int]) -> str:
    heads = [sortable("Method", "ascending")]
    for table in tables:
        first = "descending" if table.info.better == "higher" else "ascending"
        heads.append(sortable(table.label, first, better_text(table.info)))
    heads.append(sortable("Time", "ascending", "an image"))
    rows = []
    for name, label in overview_order(run, tables):
        cells = [f'<th scope="row">{method_cell(label, colors[name], name)}</th>']
        for table in tables:
            row = next((row for row in table.rows if row.name == name), None)
            cells.append(score_cell(row) if row else '<td data-value="NaN">–</td>')
        cost = run.explainers[name].seconds_per_image
        cells.append(f'<td data-value="{cost!r}">{seconds(cost)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="rule-note">Mean ± standard error over the images. {escape(RULE)}</p>'
    )

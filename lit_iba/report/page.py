"""The report as one HTML file that needs nothing else: style, script, drawings and pictures are
inside it.

Everything that comes from data (names, keys, commands, settings) is escaped by the templates, and
the page's own content security policy forbids whatever it does not bring along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_iba.report.answer import answer
from lit_iba.report.curves import COLORS_DARK, COLORS_LIGHT, GREY_DARK, GREY_LIGHT, colors_of
from lit_iba.report.decomposition import decomposition_section, read_decompositions
from lit_iba.report.page_gallery import Shown, gallery_section, shown_in_gallery
from lit_iba.report.page_metrics import metric_section
from lit_iba.report.page_provenance import guide_section, methods_section, reproduction_section
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.runs import compare_runs, runs_section
from lit_iba.report.tables import MetricTable, overview_order, rule_note, samples_of, shortfalls
from lit_iba.report.templates import Markup, own_text, render


def page(
    run: RunFolder,
    tables: list[MetricTable],
    title: str,
    pictures: int,
    others: Sequence[RunFolder] = (),
) -> str:
    """The whole page.

    Args:
        run: What was read from the run folder.
        tables: The metrics' tables (:func:`lit_iba.report.tables.build_tables`).
        title: Heading.
        pictures: How many gallery pictures to show at most.
        others: Runs that this one is compared with.
    """
    colors = colors_of(list(run.explainers))
    shown = shown_in_gallery(run, tables, pictures)
    said = render("report/answer.html", answer=answer(run, tables), tables=tables)
    sections = [
        ("answer", "Answer", said),
        ("results", "Results", _results(run, tables, colors, shown)),
    ]
    if others:
        sections.append(("runs", "Runs", runs_section(compare_runs(run, others))))
    gallery = gallery_section(run, tables, colors, shown)
    sections += [("pictures", "Pictures", gallery)] if gallery else []
    sections += [
        (f"metric-{i}", table.label, metric_section(i, table, run, colors, shown))
        for i, table in enumerate(tables)
    ]
    decompositions = read_decompositions(run.path / "panels")
    sections += (
        [("layers", "Layers", decomposition_section(decompositions))] if decompositions else []
    )
    sections += [
        ("methods", "Methods", methods_section(run, colors)),
        ("guide", "How to read", guide_section(samples_of(run, tables))),
        ("reproduce", "Reproduce", reproduction_section(run)),
    ]
    return document(title, _facts(run), sections, run.created, shortfalls(run))


def document(
    title: str,
    facts: Sequence[tuple[str, object]],
    sections: Sequence[tuple[str, str, Markup]],
    created: str = "",
    notices: Sequence[str] = (),
) -> str:
    """A page of this style.

    Args:
        title: Heading.
        facts: Names and values of the line below it.
        sections: Anchor, name in the navigation (text) and content (HTML) of each.
        created: When the results were made.
        notices: Warnings at the top.
    """
    made = render(
        "report/page.html",
        title=title,
        colors=color_rules(),
        style=own_text("report/page.css"),
        script=own_text("report/page.js"),
        facts=facts,
        notices=notices,
        sections=sections,
        created=created,
    )
    return str(made)  # a file's content: what is joined to it is not escaped any more


def color_rules() -> Markup:
    """One class per colour, and the dark values both for the system's wish and for the reader's."""

    def rules(colors: tuple[str, ...], grey: str, scope: str) -> str:
        named = [*((f"c{i}", color) for i, color in enumerate(colors)), ("cx", grey)]
        return "".join(f"{scope} .{name}{{--c:{color}}}" for name, color in named)

    dark = (
        "--paper:#141416;--raised:#1b1b1e;--sunken:#202024;--ink:#ecebe6;--soft:#a9a8a1;--faint:#8a8983;--rule:#2e2e32;"
        "--rule-strong:#4a4a50;--accent:#6cb8ee;--warn:#f0c870;--warn-bg:#2e2714;color-scheme:dark"
    )
    scoped = ':root:not([data-theme="light"])'
    return Markup(
        rules(COLORS_LIGHT, GREY_LIGHT, "") + "@media"
        f" (prefers-color-scheme:dark){{{scoped}{scoped}{{{dark}}}"
        f"{rules(COLORS_DARK, GREY_DARK, scoped)}}}"
        + f'html:root[data-theme="dark"]{{{dark}}}'
        + rules(COLORS_DARK, GREY_DARK, ':root[data-theme="dark"]')
        + ':root[data-theme="light"]{color-scheme:light}'
    )


def _facts(run: RunFolder) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("classifier", run.classifier.get("model")),
        ("weights", run.classifier.get("weights")),
    ]
    facts += [
        (run.samples, run.data.get("used", run.data.get("images"))),
        ("data", run.data.get("source")),
    ]
    facts += [("methods", len(run.explainers)), ("metrics", len(run.results))]
    return [(name, value) for name, value in facts if value not in (None, "")]


def _results(
    run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int], shown: Shown
) -> Markup:
    by_name = [{row.name: row for row in table.rows} for table in tables]
    overview = [
        (name, label, [rows.get(name) for rows in by_name], run.explainers[name].seconds_per_image)
        for name, label in overview_order(run, tables)
    ]
    return render(
        "report/results.html",
        tables=tables,
        colors=colors,
        overview=overview,
        rule=rule_note(samples_of(run, tables)),
        samples=samples_of(run, tables),
        sample=run.sample,
        shown=shown.methods,
    )

"""One section of the page for each metric: what it is, who does how well, the published numbers, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from lit_iba.report.curves import AreaPanel, LineChart, area_panels, bounds, line_charts
from lit_iba.report.naming import number, p_value, seconds
from lit_iba.report.page_parts import better_text, method_cell, score_cell, sortable
from lit_iba.report.published import Published
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.svg import area_panel, color_class, line_chart, strip, strip_range
from lit_iba.report.tables import RULE, MetricRow, MetricTable, published_notes


def metric_section(table: MetricTable, run: RunFolder, colors: Mapping[str, int]) -> str:
    """The inside of the section of one metric."""
    definition = f'<p class="definition">{escape(table.info.definition)}</p>' if table.info.definition else ""
    notes = "".join(f'<p class="rule-note">{escape(note)}</p>' for note in [RULE, *published_notes(table, run)])
    return (
        f'<h2>{escape(table.label)}<span class="better">{better_text(table.info)}</span></h2>'
        f"{definition}<p>{escape(table.verdict)}</p>{_table(table, colors)}{notes}"
        f"{_areas(table, colors)}{_charts(table, colors)}{_extras(table, colors)}{_all_published(table)}"
    )


def _table(table: MetricTable, colors: Mapping[str, int]) -> str:
    low, high = strip_range(table.rows)
    with_published = any(row.published for row in table.rows)
    first = "descending" if table.info.better == "higher" else "ascending"
    heads = [sortable("Method", "ascending"), sortable("Ours", first, "mean ± standard error")]
    heads.append(f'<th scope="col">Scale<small>{number(low, 2)} to {number(high, 2)}</small></th>')
    if with_published:
        head = sortable("◇ Published", first, "not ours")
        heads.append(head.replace('scope="col"', 'scope="col" class="published"', 1))
    heads += [sortable("p", "ascending", "against the best"), sortable("n", "descending", "images")]
    heads.append(sortable("Time", "ascending", "an image"))
    rows = "".join(_row(row, low, high, colors[row.name], with_published) for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(row: MetricRow, low: float, high: float, color: int, with_published: bool) -> str:
    p = row.adjusted_p
    cells = [
        f'<th scope="row">{method_cell(row.label, color, row.name)}</th>',
        score_cell(row),
        f"<td>{strip(row, low, high, color)}</td>",
        _published_cell(row) if with_published else "",
        f'<td data-value="{"NaN" if p is None else repr(p)}">{escape(p_value(p))}</td>',
        f'<td data-value="{row.result.n}">{row.result.n:,}</td>'.replace(",", " "),
        f'<td data-value="{row.seconds_per_image!r}">{seconds(row.seconds_per_image)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _published_cell(row: MetricRow) -> str:
    printed = row.published
    if printed is None:
        return '<td class="published" data-value="NaN">–</td>'
    title = f"Published: {printed.citation}, {printed.table}, {printed.network_label}, {printed.label}. {printed.note}"
    error = f" ± {number(printed.standard_error)}" if printed.standard_error is not None else ""
    css = "published" if row.same_network else "published far"
    return (
        f'<td class="{css}" data-value="{printed.value!r}" title="{escape(title.strip())}">'
        f"{number(printed.value)}{error}<small>{escape(printed.network_label)}</small></td>"
    )


def _areas(table: MetricTable, colors: Mapping[str, int]) -> str:
    panels = area_panels(table, colors)
    if not panels:
        return ""
    low, high = bounds([curve for panel in panels for curve in (panel.morf, panel.lerf)])
    result = next(row.result for row in table.rows if row.name == panels[0].name)
    axes = " against ".join(text for text in (result.y_label, result.x_label) if text)
    return (
        "<h3>Curves: most relevant first, least relevant first</h3>"
        f'<p class="rule-note">{escape(axes)}{". " if axes else ""}'
        '<span class="dash"></span> MoRF, most relevant tiles replaced first; '
        '<span class="dash lerf"></span> LeRF, least relevant first. The shaded area between them is the score; '
        "the pale bands are ± one standard error.</p>"
        f'<div class="panels">{"".join(_panel(panel, (low, high)) for panel in panels)}</div>'
    )


def _panel(panel: AreaPanel, y_range: tuple[float, float]) -> str:
    caption = f"{method_cell(panel.label, panel.color)}<b>{number(panel.score)}</b>"
    return f"<figure><figcaption>{caption}</figcaption>{area_panel(panel, y_range)}</figure>"


def _charts(table: MetricTable, colors: Mapping[str, int]) -> str:
    return "".join(_chart(chart) for chart in line_charts(table, colors))


def _chart(chart: LineChart) -> str:
    keys = "".join(
        f'<button type="button" aria-pressed="false" data-method="{escape(line.name)}">'
        f'<span class="swatch {color_class(line.color)}"></span>{escape(line.label)}</button>'
        for line in chart.lines
    )
    has_band = any(line.curve.se for line in chart.lines)
    band = " Bands: ± one standard error." if has_band else ""
    return (
        f'<h3>Curve: {escape(chart.title)}</h3><figure class="chart"><div class="keys">{keys}</div>{line_chart(chart)}'
        f'<figcaption class="rule-note">Choose methods above to bring them forward.{band}</figcaption></figure>'
    )


def _extras(table: MetricTable, colors: Mapping[str, int]) -> str:
    names = list(dict.fromkeys(name for row in table.rows for name in row.result.extra))
    if not names:
        return ""
    heads = sortable("Method", "ascending") + "".join(sortable(name, "descending") for name in names)
    rows = []
    for row in table.rows:
        values = [row.result.extra.get(name, float("nan")) for name in names]
        cells = "".join(f'<td data-value="{value!r}">{number(value)}</td>' for value in values)
        rows.append(f'<tr><th scope="row">{method_cell(row.label, colors[row.name], row.name)}</th>{cells}</tr>')
    return (
        "<details><summary>Further quantities of this metric</summary>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _all_published(table: MetricTable) -> str:
    """Every printed number of this metric, also of methods that this run did not have."""
    if not table.all_published:
        return ""
    groups: dict[tuple[str, str], list[Published]] = {}
    for printed in table.all_published:
        groups.setdefault((printed.source, printed.table), []).append(printed)
    return "".join(_published_table(members) for members in groups.values())


def _published_table(members: list[Published]) -> str:
    networks = list(dict.fromkeys((item.network, item.network_label) for item in members))
    values: dict[str, dict[str, Published]] = {}
    for item in members:
        values.setdefault(item.label, {})[item.network] = item
    heads = sortable("Method, as printed", "ascending") + "".join(sortable(text, "descending") for _, text in networks)
    rows = []
    for label, by_network in values.items():
        cells = "".join(_printed_cell(by_network.get(network)) for network, _ in networks)
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    first = members[0]
    notes = " ".join(dict.fromkeys(text for text in (first.data + ".", first.note) if text))
    return (
        f"<details><summary>All published numbers: {escape(first.source)}, {escape(first.table)}</summary>"
        f'<p class="rule-note">{escape(first.citation)}. {escape(notes)}</p><div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _printed_cell(item: Published | None) -> str:
    if item is None:
        return '<td class="published" data-value="NaN">–</td>'
    error = f" ± {number(item.standard_error)}" if item.standard_error is not None else ""
    return f'<td class="published" data-value="{item.value!r}">{number(item.value)}{error}</td>'

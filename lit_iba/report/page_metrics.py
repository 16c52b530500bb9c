"""One section of the page for each metric: what it is, who does how well, the published numbers, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from lit_iba.report.box_plots import CAPTION, box_plots, box_range
from lit_iba.report.curves import AreaPanel, LineChart, area_panels, bounds, line_charts
from lit_iba.report.naming import interval, number, p_value, printed, seconds
from lit_iba.report.page_parts import better_text, method_cell, score_cell, sortable
from lit_iba.report.published import Published
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.significance import SIGNIFICANCE
from lit_iba.report.svg import area_panel, box_axis, box_strip, color_class, line_chart, strip, strip_range
from lit_iba.report.tables import INTERVAL, RULE, MetricRow, MetricTable, agreement_note, published_for, published_notes


def metric_section(table: MetricTable, run: RunFolder, colors: Mapping[str, int]) -> str:
    """The inside of the section of one metric."""
    definition = f'<p class="definition">{escape(table.info.definition)}</p>' if table.info.definition else ""
    texts = [agreement_note(table), f"{RULE} {INTERVAL}", *published_notes(table, run)]
    notes = "".join(f'<p class="rule-note">{escape(note)}</p>' for note in texts if note)
    return (
        f'<h2>{escape(table.label)}<span class="better">{better_text(table.info)}</span></h2>'
        f"{definition}<p>{escape(table.verdict)}</p>{_table(table, colors)}{notes}"
        f"{_boxes(table, colors)}{_areas(table, colors)}{_charts(table, colors)}"
        f"{_pairs(table)}{_extras(table, run, colors)}{_all_published(table)}"
    )


def _table(table: MetricTable, colors: Mapping[str, int]) -> str:
    low, high = strip_range(table.rows)
    with_published = any(row.published for row in table.rows)
    first = "descending" if table.info.better == "higher" else "ascending"
    heads = [sortable("Method", "ascending"), sortable("Ours", first, "mean ± standard error")]
    heads.append(sortable("Interval", first, "95 %, bootstrap"))
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
        f'<td data-value="{row.interval[0]!r}">{interval(row.interval)}</td>',
        f"<td>{strip(row, low, high, color)}</td>",
        _published_cell(row) if with_published else "",
        f'<td data-value="{"NaN" if p is None else repr(p)}">{escape(p_value(p))}</td>',
        f'<td data-value="{row.result.n}">{row.result.n:,}</td>'.replace(",", " "),
        f'<td data-value="{row.seconds_per_image!r}">{seconds(row.seconds_per_image)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _published_cell(row: MetricRow) -> str:
    item = row.published
    if item is None:
        return '<td class="published" data-value="NaN">–</td>'
    title = f"Published: {item.citation}, {item.table}, {item.network_label}, {item.label}. {item.note}"
    css = "published" if row.same_network else "published far"
    return (
        f'<td class="{css}" data-value="{item.value!r}" title="{escape(title.strip())}">'
        f"{escape(printed(item))}<small>{escape(item.network_label)}</small></td>"
    )


def _boxes(table: MetricTable, colors: Mapping[str, int]) -> str:
    boxes = box_plots(table, colors)
    if not boxes:
        return ""
    low, high = box_range(boxes)
    rows = "".join(f"<div>{method_cell(box.label, box.color)}{box_strip(box, low, high)}</div>" for box in boxes)
    return (
        f'<h3>Spread over the images</h3><p class="rule-note">{escape(CAPTION)}</p>'
        f'<div class="spread">{rows}<div><span></span>{box_axis(low, high)}</div></div>'
    )


def _pairs(table: MetricTable) -> str:
    """Every method against every other one, as a square table."""
    names = {row.name: row.label for row in table.rows if any(row.name in pair for pair in table.pairs)}
    if len(names) < 3:  # two methods are in the table above
        return ""
    heads = "".join(f'<th scope="col" title="{escape(label)}">{i}</th>' for i, label in enumerate(names.values(), 1))
    rows = []
    for i, (name, label) in enumerate(names.items(), 1):
        cells = "".join(_pair_cell(table, name, other) for other in names)
        rows.append(f'<tr><th scope="row">{i}. {escape(label)}</th>{cells}</tr>')
    return (
        "<details><summary>Every method against every other one</summary>"
        '<p class="rule-note">▲ the method of the row is better than that of the column, ▽ it is worse, ≈ not separated; '
        "two-sided paired Wilcoxon signed-rank tests, Holm-corrected over all pairs of this metric (adjusted p &lt; "
        f'{SIGNIFICANCE}). Columns are numbered as the rows.</p><div class="scroll"><table class="square"><thead><tr>'
        f'<th scope="col">Method</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></details>'
    )


def _pair_cell(table: MetricTable, name: str, other: str) -> str:
    pair, turned = table.pairs.get((name, other)), table.pairs.get((other, name))
    found = pair or turned
    if found is None:
        return "<td></td>"
    ahead = found.ahead if pair else -found.ahead
    sign = "≈" if found.adjusted >= SIGNIFICANCE or not ahead else "▲" if ahead > 0 else "▽"
    return f'<td title="p {escape(p_value(found.adjusted))}, {found.images} images">{sign}</td>'


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


def _extras(table: MetricTable, run: RunFolder, colors: Mapping[str, int]) -> str:
    names = list(dict.fromkeys(name for row in table.rows for name in row.result.extra))
    if not names:
        return ""
    heads = sortable("Method", "ascending") + "".join(sortable(name, "descending") for name in names)
    rows = []
    for row in table.rows:
        values = [row.result.extra.get(name, float("nan")) for name in names]
        beside = [published_for(run, table.name, row.name, name)[0] for name in names]
        cells = "".join(
            f'<td data-value="{value!r}">{number(value)}{_beside(item)}</td>'
            for value, item in zip(values, beside, strict=True)
        )
        rows.append(f'<tr><th scope="row">{method_cell(row.label, colors[row.name], row.name)}</th>{cells}</tr>')
    return (
        "<details><summary>Further quantities of this metric</summary>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _beside(item: Published | None) -> str:
    if item is None:
        return ""
    origin = f"Published: {item.source}, {item.table}, {item.network_label}"
    return f'<small title="{escape(origin)}">◇ {escape(printed(item))}</small>'


def _all_published(table: MetricTable) -> str:
    """Every printed number of this metric, also of methods that this run did not have."""
    if not table.all_published:
        return ""
    groups: dict[tuple[str, str], list[Published]] = {}
    for item in table.all_published:
        groups.setdefault((item.source, item.table), []).append(item)
    return "".join(_published_table(members) for members in groups.values())


def _published_table(members: list[Published]) -> str:
    columns = list(dict.fromkeys(map(_column, members)))
    values: dict[tuple[str, str], dict[str, Published]] = {}
    for item in members:
        values.setdefault((item.label, item.quantity), {})[_column(item)] = item
    several = any(item.quantity != "score" for item in members)
    heads = [sortable("Method, as printed", "ascending"), sortable("Quantity", "ascending") if several else ""]
    heads += [sortable(text, "descending") for text in columns]
    rows = []
    for (label, quantity), by_column in values.items():
        cells = f"<td>{escape(quantity)}</td>" if several else ""
        cells += "".join(_printed_cell(by_column.get(column)) for column in columns)
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    first = members[0]
    texts = dict.fromkeys(text for item in members for text in (_sentence(item.data), item.note) if text)
    notes = " ".join(text for text in texts if not any(text in other for other in texts if other != text))
    return (
        f"<details><summary>All published numbers: {escape(first.source)}, {escape(first.table)}</summary>"
        f'<p class="rule-note">{escape(first.citation)}. {escape(notes)}</p><div class="scroll">'
        f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _column(item: Published) -> str:
    return f"{item.network_label}, {item.condition}" if item.condition else item.network_label


def _printed_cell(item: Published | None) -> str:
    if item is None:
        return '<td class="published" data-value="NaN">–</td>'
    return f'<td class="published" data-value="{item.value!r}">{escape(printed(item))}</td>'

"""Page, Markdown and LaTeX of a made-up run: whole, true to the numbers, and safe with hostile
names.
"""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lit_iba.errors import InputError
from lit_iba.report import write_report
from lit_iba.report.run_folder import read_run
from lit_iba.report.tables import build_tables

VOID = {"meta", "link", "img", "br", "input", "path", "line", "circle"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps attributes, table rows and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.scripts += tag == "script"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs).get("data-value")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data
        if self.open and {"td", "th"} & set(self.open):
            text, value = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, value)


def page_of(run: Path) -> Page:
    page = Page((run / "report.html").read_text())
    assert page.open == []
    return page


def edit(run: Path, change: Callable[[dict], None]) -> None:
    document = json.loads((run / "results.json").read_text())
    change(document)
    (run / "results.json").write_text(json.dumps(document))


def test_page_is_well_formed_and_loads_nothing(make_run: Callable[..., Path]) -> None:
    run = make_run()
    write_report(run)
    page = page_of(run)
    loaded = [
        value
        for tag, name, value in page.attributes
        if name in ("src", "href", "srcset", "action", "poster")
    ]
    assert loaded
    assert all(value.startswith(("data:", "#")) for value in loaded)
    style = re.findall(r"<style>(.*?)</style>", (run / "report.html").read_text(), re.S)
    assert not re.search(r"url\(|@import", style[0])
    targets = {value for _, name, value in page.attributes if name == "id"}
    assert all(
        value[1:] in targets
        for tag, name, value in page.attributes
        if name == "href" and value[0] == "#"
    )


def test_every_number_of_the_tables_is_the_one_of_results_json(
    make_run: Callable[..., Path],
) -> None:
    run = make_run()
    write_report(run)
    results = json.loads((run / "results.json").read_text())["results"]
    tables = page_of(run).tables
    overview = {row[0][0]: row[1:] for row in tables[0][1:]}
    names = {"IBA Per-Sample": "per_sample_iba", "Random": "random", "Grad-CAM": "grad_cam"}
    for label, name in names.items():
        for metric, (text, value) in zip(results, overview[label], strict=False):
            result = results[metric][name]
            assert float(value or "nan") == result["score"]
            shown = [float(part) for part in re.findall(r"-?[\d.]+", text.replace("\u2212", "-"))]
            assert shown == pytest.approx([result["score"], result["standard_error"]], abs=5e-4)
    text = (run / "report.md").read_text() + (run / "report.tex").read_text()
    assert text.count(f"{results['bounding_box']['grad_cam']['score']:.3f}") >= 3


@pytest.mark.slow
def test_published_numbers_stand_beside_ours_and_are_marked(make_run: Callable[..., Path]) -> None:
    run = make_run()
    write_report(run)
    row = next(r for t in page_of(run).tables[1:] for r in t if r[0][0] == "IBA Per-Sample")
    assert ("0.572ResNet-50", "0.572") in row
    edit(run, lambda document: document["classifier"].update(model="small_cnn"))
    write_report(run)
    assert "The papers print no numbers for small_cnn" in page_of(run).text
    assert "*0.572* (ResNet-50, Schulz et al. 2020, Table 1)" in (run / "report.md").read_text()


@pytest.mark.slow
def test_markdown_shows_plots_that_exist(make_run: Callable[..., Path]) -> None:
    run = make_run()
    files = write_report(run, title="A title")
    text = (run / "report.md").read_text()
    shown = [run / name for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)]
    assert len(shown) == 5  # box plots of three metrics, areas of one, curves of another
    assert set(shown) <= set(files)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in shown)
    assert text.startswith("# A title\n")
    assert all(path.is_file() for path in files)


def test_a_report_made_again_leaves_no_plots_of_the_last_one(make_run: Callable[..., Path]) -> None:
    run = make_run()
    (run / "plots").mkdir(exist_ok=True)
    stale = ("03_roar_boxes.png", "01_sanity_curve0.png", "layers_degradation_8_score.png")
    own = ("notes.png", "03_roar_boxes.txt", "my_layers_a.png")
    for name in stale + own:
        (run / "plots" / name).write_bytes(b"old")
    files = {path for path in write_report(run) if path.parent.name == "plots"}
    assert set((run / "plots").iterdir()) == files | {run / "plots" / name for name in own}
    assert len(files) == 5


def test_latex_holds_every_method_and_the_published_column(make_run: Callable[..., Path]) -> None:
    run = make_run()
    write_report(run)
    text = (run / "report.tex").read_text()
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.S)
    assert len(tables) == 3  # all metrics; then the two of three that the papers have numbers of
    for table in tables:
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert len(rows) == 1 + 5
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        assert len(re.findall(r"(?<!\\)\{", table)) == len(re.findall(r"(?<!\\)\}", table))
    assert r"\textit{0.572}" in tables[1]
    assert r"Spearman's $\rho$ =" in tables[1]


def test_a_metric_that_nobody_knows_is_shown_whole(make_run: Callable[..., Path]) -> None:
    run = make_run()

    def change(document: dict) -> None:
        for part in ("metrics", "results"):
            document[part]["mine"] = document[part].pop("sensitivity_n")
        document["metrics"]["mine"].update({"class": "my_file.Mine", "better": "lower"})
        for result in document["results"]["mine"].values():
            result["extra"] = {"half_way": 0.625}

    edit(run, change)
    (run / "rows.csv").write_text(
        (run / "rows.csv").read_text().replace(",sensitivity_n,", ",mine,")
    )
    write_report(run)
    section = (
        (run / "report.html").read_text().split('<section id="metric-2">')[1].split("</section>")[0]
    )
    for part in (
        "lower is better",
        "Spread over the images",
        "Curve: correlation",
        "half_way",
        "0.625",
        "bootstrap",
        "▲",
    ):
        assert part in section
    best = min(
        json.loads((run / "results.json").read_text())["results"]["mine"].items(),
        key=lambda e: e[1]["score"],
    )
    assert build_tables(read_run(run))[2].rows[0].name == best[0]


def test_hostile_names_stay_text(make_run: Callable[..., Path]) -> None:
    evil = "<script>alert('x')</script>\"|`$x$`"
    run = make_run(explainers={"grad_cam": (0.5, {"layer": evil}, 0.1), evil: (0.4, {}, 0.1)})

    def change(document: dict) -> None:
        document["classifier"]["model"] = evil
        document["data"][evil] = evil
        document["created"] = evil
        for part in ("metrics", "results"):
            document[part][evil] = document[part].pop("sensitivity_n")
        document["metrics"][evil].update(definition=evil, **{"class": evil})
        for result in document["results"][evil].values():
            result["curves"] = {evil: result["curves"]["correlation"]}
            result.update(x_label=evil, y_label=evil, extra={evil: 1.0})

    edit(run, change)
    (run / "command.txt").write_text(evil)
    (run / "config.yaml").write_text(evil)
    write_report(run, title=evil)
    page = page_of(run)
    assert page.scripts == 1
    assert page.text.count(evil) > 8
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    markdown = re.sub(r"```.*?```", "", (run / "report.md").read_text(), flags=re.S)
    assert "<script" not in markdown
    bars = [
        len(re.findall(r"(?<!\\)\|", line))
        for line in markdown.splitlines()
        if line.startswith("| Method")
    ]
    first = [
        len(re.findall(r"(?<!\\)\|", line))
        for line in markdown.splitlines()
        if line.startswith("| Grad-CAM")
    ]
    assert bars == first  # a bar in a name opens no column
    body = (run / "report.tex").read_text()
    assert r"\textless{}script\textgreater{}" in body
    assert r"\$x\$" in body


def test_a_poor_run_still_makes_a_page(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={"grad_cam": (0.5, {}, 0.1)}, images=1)
    for name in ("gallery.safetensors", "rows.csv", "config.yaml", "command.txt"):
        (run / name).unlink()

    def change(document: dict) -> None:
        document["results"]["bounding_box"]["grad_cam"].update(score=None, n=0)
        document["results"]["degradation_8"]["grad_cam"]["standard_error"] = math.nan
        document["results"]["sensitivity_n"]["grad_cam"]["curves"]["correlation"]["y"][0] = None
        document["explainers"]["grad_cam"]["seconds_per_image"] = None

    edit(run, change)
    write_report(run)
    page = page_of(run)
    assert "no number for Grad-CAM" in page.text
    assert "nan" not in page.text.lower().replace("nano", "")
    assert "nan" not in " ".join(value for tag, name, value in page.attributes if name == "d")
    assert not any(value == "gallery" for _, _, value in page.attributes)


def test_bold_only_where_the_rows_separate_the_best(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={"grad_cam": (0.5, {}, 0.1), "saliency": (0.3, {}, 0.1)})
    write_report(run)
    assert all(table.rows[0].bold for table in build_tables(read_run(run))[:2])
    rows = (run / "rows.csv").read_text().splitlines()
    values = {tuple(r.split(",")[:4:2]): r.split(",")[4] for r in rows if ",grad_cam," in r}
    noisy = []
    for i, row in enumerate(rows):
        key, name, metric, quantity, value = row.split(",")
        if name == "saliency":  # now equal to the other but for a sign that alternates
            value = str(float(values[key, metric]) + (1e-3 if i % 2 else -1e-3))
        noisy.append(",".join((key, name, metric, quantity, value)))
    (run / "rows.csv").write_text("\n".join(noisy) + "\n")
    tables = build_tables(read_run(run))
    assert not any(row.bold for table in tables for row in table.rows)
    assert [row.tied for row in tables[0].rows] == [False, True]


def test_missing_or_damaged_files_are_named_with_the_mend(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"nowhere/results\.json does not exist.*evaluate\.py benchmark"
    ):
        write_report(tmp_path / "nowhere")
    run = make_run()
    good = (run / "results.json").read_text()
    (run / "results.json").write_text(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"results\.json is damaged .*benchmark` again"):
        write_report(run)
    (run / "results.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match=r"schema 2, but this version reads schema 1"):
        write_report(run)
    for broken in (
        '{"schema": 1}',
        '{"schema": 1, "explainers": {}, "metrics": {}, "results": {"m": {"e": {}}}}',
    ):
        (run / "results.json").write_text(broken)
        with pytest.raises(InputError, match=r"not a complete table of results"):
            write_report(run)
    (run / "results.json").write_text(good)
    (run / "gallery.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(InputError, match=r"gallery\.safetensors is damaged .*delete it"):
        write_report(run)
    (run / "gallery.safetensors").unlink()
    (run / "rows.csv").write_text(
        "key,explainer,metric,quantity,value\na,grad_cam,bounding_box,score,high\n"
    )
    with pytest.raises(InputError, match=r"rows\.csv, line 2, is damaged"):
        write_report(run)

"""Names of any letters and any length in pictures, and curves without a number."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from lit_iba.drawing import name_beside, plain_text
from lit_iba.heatmap import Heatmap
from lit_iba.report import write_report
from lit_iba.report.curves import colors_of, line_charts
from lit_iba.report.plots import line_figure, write_plots
from lit_iba.report.run_folder import read_run
from lit_iba.report.side_by_side import save_side_by_side
from lit_iba.report.tables import build_tables

NAMES = ["_金鱼方法", "طريقة", "🎉", "m" * 120, "a $cost$"]


def test_a_letter_that_the_font_lacks_is_drawn_by_its_code() -> None:
    assert plain_text("金 $a$, ü") == r"\u91d1 \$a\$, ü"
    assert len(name_beside("m" * 120)) == 44


def test_every_method_has_its_name_in_every_plot(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = read_run(make_run(explainers={name: (0.5, {}, 0.1) for name in NAMES}))
    tables, colors = build_tables(run), colors_of(NAMES)
    for i, table in enumerate(tables):
        write_plots(table, i, colors, tmp_path)  # matplotlib warns of an empty box
        for chart in line_charts(table, colors):
            figure = line_figure(chart)
            figure.draw_without_rendering()
            (legend,) = figure.legends
            said = [text.get_text().strip() for text in legend.get_texts()]
            assert sorted(said) == sorted(name_beside(line.label).strip() for line in chart.lines)
            assert legend.get_window_extent().x1 <= figure.bbox.x1 + 1
    maps = {name: Heatmap(torch.rand(1, 8, 8)) for name in NAMES}
    save_side_by_side(tmp_path / "panel.png", torch.zeros(3, 8, 8, dtype=torch.uint8), "金鱼", maps)


def test_curves_of_no_number_are_reported(make_run: Callable[..., Path]) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    for methods in document["results"].values():
        for result in methods.values():
            result["score"] = None
            for curve in result["curves"].values():
                curve["y"] = [None] * len(curve["y"])
    (run / "results.json").write_text(json.dumps(document))
    assert "02_sensitivity_n_curve0.png" in [path.name for path in write_report(run)]

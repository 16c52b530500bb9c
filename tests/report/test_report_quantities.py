"""Medians, quartiles, paired tests and charts over layers, of runs with hand-made rows."""

import csv
import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_run import fake_run
from scipy.stats import wilcoxon

from lit_iba.cli.main import main
from lit_iba.errors import InputError
from lit_iba.report import read_run
from lit_iba.report.plots import layer_figure
from lit_iba.report.quantities import over_layers, paired, spreads
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.runs import compare_runs
from lit_iba.report.significance import holm

EXPLAINERS = ("activity_01", "activity_02", "activity_10", "saliency")
SETTINGS = {
    "activity_01": {"layers": ["conv1"]},
    "activity_02": {"layers": ["conv2"]},
    "activity_10": {"layers": ["conv9"]},
    "saliency": {},
}
QUANTITIES = ("score", "e_minus")


def value(explainer: str, quantity: str, image: int, network: int) -> float:
    """Skewed numbers, all different; the second network's are larger for odd images."""
    base = 0.01 * (image + 1) ** 2 + 0.3 * EXPLAINERS.index(explainer)
    return round(base * (3 if quantity == "e_minus" else 1) + network * (image % 2) * 0.5, 6)


def written(folder: Path, network: int = 0, images: range = range(9)) -> RunFolder:
    folder.mkdir()
    rows = [
        (f"im{image}", explainer, "flip", quantity, value(explainer, quantity, image, network))
        for image in images
        for explainer in EXPLAINERS
        for quantity in QUANTITIES
    ]
    RunFolder.write_rows(folder, rows)
    scores = {
        e: statistics.mean(value(e, "score", image, network) for image in images)
        for e in EXPLAINERS
    }
    document = {
        "schema": 1,
        "created": "2026-03-01T12:00:00+00:00",
        "command": "",
        "classifier": {"model": "resnet50"},
        "data": {"images": len(images), "used": len(images)},
        "explainers": {
            name: {"class": name, "settings": SETTINGS[name], "unit": "1", "signed": False}
            | {"seconds_per_image": 0.1}
            for name in EXPLAINERS
        },
        "metrics": {
            "flip": {"class": "decision_flip", "settings": {}, "definition": "", "better": "higher"}
        },
        "results": {
            "flip": {
                name: {"score": score, "standard_error": 0.1, "n": len(images)}
                for name, score in scores.items()
            }
        },
    }
    (folder / "results.json").write_text(json.dumps(document))
    return read_run(folder)


def column(explainer: str, quantity: str, network: int = 0) -> list[float]:
    return [value(explainer, quantity, image, network) for image in range(9)]


def test_every_quantity_has_its_mean_median_and_quartiles(tmp_path: Path) -> None:
    found = {(s.explainer, s.quantity): s for s in spreads(written(tmp_path / "run"))}
    assert set(found) == {(e, q) for e in EXPLAINERS for q in QUANTITIES}
    for (explainer, quantity), spread in found.items():
        values = column(explainer, quantity)
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        assert (spread.lower_quartile, spread.median, spread.upper_quartile) == pytest.approx(
            (low, middle, high)
        )
        assert spread.mean == pytest.approx(statistics.mean(values))
        assert spread.standard_error == pytest.approx(statistics.stdev(values) / 3)
        assert spread.images == 9


def test_two_networks_are_compared_image_by_image_on_those_that_both_have(tmp_path: Path) -> None:
    run = written(tmp_path / "one")
    other = written(tmp_path / "two", network=1, images=range(2, 12))
    found = {(p.first, p.quantity): p for p in paired(run, others=[other])}
    assert set(found) == {(e, q) for e in EXPLAINERS for q in QUANTITIES}
    first = column("saliency", "e_minus")[2:]
    second = column("saliency", "e_minus", network=1)[2:]
    difference = np.subtract(first, second)
    one = found["saliency", "e_minus"]
    assert (one.images, one.share) == (7, 0)
    assert one.mean_difference == pytest.approx(difference.mean())
    assert one.median_difference == pytest.approx(np.median(difference))
    assert one.standard_error == pytest.approx(statistics.stdev(difference) / 7**0.5)
    assert one.p_value == pytest.approx(wilcoxon(difference[difference != 0]).pvalue)
    assert one.adjusted == pytest.approx(min(1, 4 * one.p_value))  # Holm over four methods


def test_pairs_within_a_run_and_what_cannot_be_compared(tmp_path: Path) -> None:
    run = written(tmp_path / "one")
    (score, minus) = paired(run, [("activity_02", "activity_01")])
    assert score.mean_difference == pytest.approx(0.3)
    assert minus.mean_difference == pytest.approx(0.9)
    assert score.share == 1
    assert score.p_value == pytest.approx(2 / 2**9)  # all nine on one side
    assert paired(run) == []
    for rows in run.rows["flip"].values():  # what is the image's alone is not compared
        rows["box_fraction"] = {f"im{image}": 0.1 * image for image in range(9)}
    assert paired(run, [("activity_02", "activity_01")]) == [score, minus]
    assert len(paired(run, others=[run])) == 3 * len(EXPLAINERS)
    with pytest.raises(InputError, match="activity_2"):
        paired(run, [("activity_2", "saliency")])
    with pytest.raises(InputError, match="is no pair"):
        paired(run, [("saliency",)])
    elsewhere = written(tmp_path / "two", images=range(20, 24))
    with pytest.raises(InputError, match="no image and quantity in common"):
        paired(run, others=[elsewhere])


def test_a_pattern_is_the_mean_over_all_that_match_image_by_image(tmp_path: Path) -> None:
    images = range(9)
    run = written(tmp_path / "a")
    (_, minus) = paired(run, [("activity_0[1-9]", "saliency")])
    first = [
        statistics.mean(value(e, "e_minus", i, 0) for e in ("activity_01", "activity_02"))
        for i in images
    ]
    second = [value("saliency", "e_minus", i, 0) for i in images]
    assert (minus.first, minus.second, minus.images) == ("activity_0[1-9]", "saliency", 9)
    assert minus.mean_difference == pytest.approx(
        statistics.mean(a - b for a, b in zip(first, second, strict=True))
    )
    assert minus.p_value == pytest.approx(wilcoxon(first, second).pvalue)
    # An image that one of them has no number of is no pair.
    del run.rows["flip"]["activity_02"]["score"]["im3"]  # type: ignore[attr-defined]
    run.rows["flip"]["activity_01"]["score"]["im4"] = math.nan  # type: ignore[index]
    assert paired(run, [("activity_0?", "saliency")])[0].images == 7
    with pytest.raises(InputError, match=r"'bias_\*' is not a known explainer of the run"):
        paired(run, [("activity_*", "bias_*")])


def test_numbered_explainers_are_drawn_over_their_numbers(tmp_path: Path) -> None:
    charts = over_layers(written(tmp_path / "run"))
    assert list(charts) == [("flip", "score"), ("flip", "e_minus")]
    groups = charts["flip", "e_minus"]
    assert list(groups) == ["activity"]  # saliency has no number
    (axes,) = layer_figure(groups, "e-").axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 2, 10]
    assert list(line.get_ydata()) == pytest.approx(
        [statistics.median(column(e, "e_minus")) for e in EXPLAINERS[:3]]
    )


@pytest.mark.parametrize(
    "settings",
    [[{"tile": 8}, {"tile": 14}], [{"layer": "conv1"}, {"layer": "conv1"}], [{"layers": 2}, {}]],
)
def test_numbers_that_are_of_no_layer_make_no_chart_over_layers(
    tmp_path: Path, settings: list[dict[str, object]]
) -> None:
    """Table 1's occlusion_8 and occlusion_14 once did."""
    run = written(tmp_path / "run")
    infos = {
        name: replace(run.explainers[f"activity_0{i + 1}"], settings=given)
        for i, (name, given) in enumerate(
            zip(("occlusion_8", "occlusion_14"), settings, strict=True)
        )
    }
    rows = {name: run.rows["flip"][f"activity_0{i + 1}"] for i, name in enumerate(infos)}
    assert over_layers(replace(run, explainers=infos, rows={"flip": rows})) == {}


def test_what_is_of_the_image_alone_makes_no_chart_over_layers(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    rows = {
        e: {**q, "box_fraction": run.rows["flip"]["saliency"]["score"]}
        for e, q in run.rows["flip"].items()
    }
    assert [q for _, q in over_layers(replace(run, rows={"flip": rows}))] == ["score", "e_minus"]


def test_the_command_writes_them(tmp_path: Path) -> None:
    written(tmp_path / "one")
    written(tmp_path / "two", network=1)
    shutil.rmtree(tmp_path / "one" / "plots", ignore_errors=True)
    command = ["report", str(tmp_path / "one"), str(tmp_path / "two")]
    assert main([*command, "--pairs", '[["activity_02", "saliency"]]'], "evaluate.py") == 0
    with (tmp_path / "one" / "paired.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["first"], row["second"], row["quantity"]) for row in rows] == [
        ("activity_02", "saliency", quantity) for quantity in QUANTITIES
    ]
    assert len((tmp_path / "one" / "quantities.csv").read_text().splitlines()) == 9
    drawn = sorted(path.name for path in (tmp_path / "one" / "plots").glob("layers_*"))
    assert drawn == ["layers_flip_e_minus.png", "layers_flip_score.png"]


def test_several_runs_are_corrected_together_as_the_page_has_it(tmp_path: Path) -> None:
    method = {"grad_cam": (0.5, {}, 0.1)}
    runs = [read_run(fake_run(tmp_path / str(i), method, 12, seed=i)) for i in range(5)]
    tests = [row for row in paired(runs[0], others=runs[1:]) if row.metric == "bounding_box"]
    assert [row.adjusted for row in tests] == holm([row.p_value for row in tests])
    assert any(row.adjusted > row.p_value for row in tests)
    (metric,) = [
        one for one in compare_runs(runs[0], runs[1:]).metrics if one.info.cls == "bounding_box"
    ]
    (_, cells) = metric.rows[0]
    assert [row.adjusted for row in tests] == pytest.approx([c.adjusted for c in cells[1:] if c])

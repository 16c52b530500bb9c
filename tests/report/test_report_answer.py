"""What the report says in words follows from its numbers: who is best, beyond chance or not, and
what makes the comparison unfair.
"""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up_run import fake_run

from lit_iba.report import build_tables, read_run, write_report
from lit_iba.report.answer import Answer, answer
from lit_iba.report.runs import compare_runs, run_labels
from lit_iba.report.telling import telling_pictures

CLEAR = {
    "grad_cam": (0.5, {}, 0.1),
    "saliency": (0.4, {}, 0.1),
    "noise": (0.1, {}, 0.1),
    "gradient": (0.1, {}, 0.1),
}


def said(run: Path) -> Answer:
    folder = read_run(run)
    return answer(folder, build_tables(folder))


def edit(run: Path, **data: object) -> None:
    document = json.loads((run / "results.json").read_text())
    document["data"].update(data)
    for info in document["explainers"].values():
        info["class"] = {"noise": "lit_iba.baselines.RandomMap"}.get(info["class"], info["class"])
    (run / "results.json").write_text(json.dumps(document))


def test_the_best_the_next_and_the_control_are_told_apart(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers=CLEAR)
    edit(run)
    found = said(run)
    assert found.headline.startswith("Grad-CAM is best in Degradation, 8×8 tiles, Bounding box")
    sentence = found.verdicts[0][1]
    assert re.search(r"best mean, 0\.\d+, on 40 images\.", sentence)
    assert re.search(r"It is separated from the next, Saliency \(0\.\d+, p < 0\.001\)", sentence)
    # The control is known by its class, whatever the config calls it.
    assert re.search(r"It is separated from the best control, noise \(0\.\d+, p", sentence)
    assert sentence.endswith("Not shown to be better than noise: Gradient.")


def test_a_lead_by_chance_is_not_called_best(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={"grad_cam": (0.5, {}, 0.1), "saliency": (0.5, {}, 0.1)}, images=5)
    found = said(run)
    assert "is best" not in found.headline
    assert "not separated from all others" in found.headline
    assert all("It is not separated from the next" in text for _, text in found.verdicts)


def test_where_a_control_leads_no_method_is_praised(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={"centre": (0.5, {}, 0.1), "saliency": (0.3, {}, 0.1)})
    found = said(run)
    assert "a control, is beaten by no method" in found.headline
    assert "Centre, a control that knows nothing of the picture" in found.verdicts[0][1]


def test_what_makes_a_comparison_unfair_is_said_and_nothing_else(
    make_run: Callable[..., Path],
) -> None:
    fair = make_run()
    edit(fair, size=[224, 224], wrongly_predicted=0)
    assert said(fair).cautions == []
    unfair = make_run(
        explainers={"occlusion": (0.5, {}, 0.1), "lime": (0.4, {"side": 14}, 0.1)}, images=5
    )
    edit(unfair, size=[112, 150], wrongly_predicted=2)
    document = json.loads((unfair / "results.json").read_text())
    document["metrics"]["degradation_8"]["settings"]["points"] = 17
    (unfair / "results.json").write_text(json.dumps(document))
    wrong, lengths, points, control, few = said(unfair).cautions
    assert wrong.startswith("Of 2 of the 5 images (40%) the classifier predicts another class")
    # LIME's were given in proportion.
    assert "112 pixels" in lengths
    assert "Occlusion (tile 8), Degradation" in lengths
    assert "LIME" not in lengths
    assert "has 17 points" in points
    assert "No control was run" in control
    assert "No paired test over 5 images" in few
    write_report(unfair)
    for name in ("report.html", "report.md"):
        text = (unfair / name).read_text()
        assert "No control was run" in text
        assert "has 17 points" in text


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"tile": 14, "points": 25}, "enough, with baseline mean_of_image and t1 top1."),
        ({"tile": 14, "points": 25, "baseline": "mean_of_image"}, "enough, with t1 top1."),
        ({"tile": 8, "points": 25, "baseline": "mean_of_image", "t1": "top1"}, "close enough."),
        ({"tile": 8, "points": 26}, None),
    ],
)
def test_what_else_keeps_a_published_number_away_is_said(
    make_run: Callable[..., Path], settings: dict, missing: str | None
) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    document["metrics"]["degradation_8"]["settings"] = settings
    (run / "results.json").write_text(json.dumps(document))
    found = [text for text in said(run).cautions if "points" in text]
    assert [text[-len(missing) :] for text in found] == [missing] if missing else not found


@pytest.mark.slow
def test_failures_and_successes_are_the_extremes_of_the_gallery(
    make_run: Callable[..., Path],
) -> None:
    pictures = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    run = make_run(pictures=pictures)
    folder = read_run(run)
    table = build_tables(folder)[0]
    worst, best = telling_pictures(table, folder)
    with (run / "rows.csv").open() as file:
        scores = {
            row["key"]: float(row["value"])
            for row in csv.DictReader(file)
            if row["explainer"] == table.rows[0].name and row["metric"] == table.name
        }
    order = sorted(range(9), key=lambda i: scores[f"val_{i:05d}"])
    assert (worst, best) == (order[:3], order[:-4:-1])
    write_report(run, pictures=7)  # fewer than there are, but all that are told of
    page = (run / "report.html").read_text()
    places = [int(place) for place in re.findall(r"place (\d+) of 40", page)][:6]
    ranks = sorted(scores.values(), reverse=True)
    wanted = [ranks.index(scores[f"val_{i:05d}"]) + 1 for i in (*worst, *best)]
    assert places == wanted
    assert page.count('<figure id="picture-') == 7


def test_runs_are_held_against_the_first(tmp_path: Path) -> None:
    one = fake_run(tmp_path / "a" / "run", {"grad_cam": (0.5, {}, 0.1), "saliency": (0.3, {}, 0.1)})
    two = fake_run(
        tmp_path / "b" / "run",
        {"grad_cam": (0.2, {}, 0.1), "saliency": (0.3, {"smooth": 4}, 0.1), "lime": (0, {}, 1)},
        images=30,
        seed=0,
    )
    edit(two, identity="other")
    found = compare_runs(read_run(one), [read_run(two)])
    assert found.labels == ["a/run", "b/run"]
    rows = dict(found.metrics[0].rows)
    assert list(rows) == ["Grad-CAM", "Saliency", "LIME"]
    assert rows["Grad-CAM"][1].ahead == -1
    assert rows["Grad-CAM"][1].images == 30
    assert rows["LIME"][0] is None
    assert rows["LIME"][1].ahead is None
    assert "worse: Grad-CAM in Degradation, 8×8 tiles, Grad-CAM in" in found.verdicts[0]
    assert any("different data" in text for text in found.cautions)
    assert any(
        "saliency is set differently: smooth its default and 4" in text for text in found.cautions
    )
    write_report(one, others=[two])
    for name in ("report.html", "report.md"):
        assert "b/run against a/run, on 30 images" in (one / name).read_text()


def test_maps_that_are_always_the_same_are_their_own_noise(make_run: Callable[..., Path]) -> None:
    run = make_run(explainers={"saliency": (0.5, {}, 0.1), "centre": (0.3, {}, 0.1)})
    edit(run, size=[224, 224], wrongly_predicted=0)
    assert said(run).cautions == []
    document = json.loads((run / "results.json").read_text())
    document["metrics"]["degradation_8"] = {
        **document["metrics"]["degradation_8"],
        "class": "lit_iba.metrics.decision_flip.DecisionFlip",
        "settings": {"noise_maps": 1},
    }
    (run / "results.json").write_text(json.dumps(document))
    (caution,) = said(run).cautions
    assert "0 by definition (Centre)" in caution


def test_maps_that_another_seed_changes_are_named_in_a_sanity_check(
    make_run: Callable[..., Path],
) -> None:
    run = make_run(explainers={"smoothgrad": (0.1, {}, 0.1), "grad_cam": (0.4, {}, 0.1)})
    edit(run, size=[224, 224], wrongly_predicted=0)
    document = json.loads((run / "results.json").read_text())
    rows = document["results"]["degradation_8"]
    rows["smoothgrad"]["extra"]["ssim_of_control"] = 0.298
    rows["grad_cam"]["extra"]["ssim_of_control"] = 0.998
    (run / "results.json").write_text(json.dumps(document))
    (caution,) = (text for text in said(run).cautions if "seeds" in text)
    assert "two seeds on the intact network give maps of similarity 0.298 (SmoothGrad)." in caution
    rows["smoothgrad"]["extra"]["ssim_of_control"] = 0.95
    (run / "results.json").write_text(json.dumps(document))
    assert not [text for text in said(run).cautions if "seeds" in text]


@pytest.mark.parametrize("samples", ["reviews", "trainings"])
def test_scores_of_no_images_are_not_called_so(make_run: Callable[..., Path], samples: str) -> None:
    run = make_run(explainers={"grad_cam": (0.5, {}, 0.1), "saliency": (0.5, {}, 0.1)}, images=5)
    document = json.loads((run / "results.json").read_text())
    name = "degradation_8"
    for part in ("metrics", "results"):
        document[part] = {name: document[part][name]}
    if samples == "reviews":
        document["data"]["kind"] = samples
    # Nothing is published of a metric of one's own.
    document["metrics"][name]["class"] = "roar" if samples == "trainings" else "mine.Metric"
    document["data"]["images"] = document["data"]["used"]
    document["metrics"][name]["definition"] = ""
    (run / "results.json").write_text(json.dumps(document))
    (run / "gallery.safetensors").unlink()
    write_report(run, others=[run])
    assert f"on 5 {samples}: " in (run / "report.md").read_text()
    for report in ("report.html", "report.md", "report.tex"):
        text = re.sub(r"<(style|script).*?</\1>|<[^>]*>|\n", " ", (run / report).read_text())
        assert samples in text
        said = re.findall(r"\b(?:over|the|of|n|\d) images?\b", text)
        assert not said, (report, said)


@pytest.mark.parametrize("paths", [["x/a", "x/a"], ["x"]])
def test_labels_of_runs_end_even_where_nothing_tells_them_apart(paths: list[str]) -> None:
    assert run_labels([Path(path) for path in paths]) == [Path(path).name for path in paths]


def test_a_degradation_without_a_gap_is_explained(make_run: Callable[..., Path]) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    for result in document["results"]["degradation_8"].values():
        result["score"] = result["standard_error"] = None
        result["extra"] = {"t1": 0.21, "degraded_probability": 0.24}
        for curve in result["curves"].values():
            curve["y"], curve["se"] = [None] * len(curve["x"]), [None] * len(curve["x"])
    (run / "results.json").write_text(json.dumps(document))
    (caution,) = [text for text in said(run).cautions if "has no score" in text]
    assert caution.startswith("Degradation, 8×8 tiles has no score: the mean probability")
    assert "(t1 = 0.210) is not above that of fully degraded images (b = 0.240)" in caution
    write_report(run)
    for name in ("report.html", "report.md"):
        assert "has no score: the mean probability" in (run / name).read_text()


def test_means_over_different_images_say_so_wherever_they_stand(
    make_run: Callable[..., Path],
) -> None:
    run = make_run()
    assert "n = 40" not in "".join(written_texts(run))
    document = json.loads((run / "results.json").read_text())
    lines = (run / "rows.csv").read_text().splitlines()
    gone = [f"val_{i:05d}," for i in range(10)]
    for i, line in enumerate(lines):
        if ",grad_cam,bounding_box," in line and line.startswith(tuple(gone)):
            lines[i] = f"{line.rpartition(',')[0]},nan"
    (run / "rows.csv").write_text("\n".join(lines) + "\n")
    document["results"]["bounding_box"]["grad_cam"]["n"] = 30
    (run / "results.json").write_text(json.dumps(document))
    (caution,) = [text for text in said(run).cautions if "not every method" in text]
    assert caution.startswith("Bounding box: not every method has a score on the same images (n =")
    assert "30 to 40" in caution
    for text in written_texts(run):
        assert "(n = 30)" in text
        assert "(n = 40)" in text


def written_texts(run: Path) -> list[str]:
    write_report(run)
    return [(run / f"report.{kind}").read_text() for kind in ("html", "md", "tex")]


def test_a_blur_that_is_not_made_has_no_length(make_run: Callable[..., Path]) -> None:
    run = make_run()
    edit(run, size=[112, 112])
    document = json.loads((run / "results.json").read_text())
    for settings, wanted in (
        ({"baseline": "zero", "pixels_per_step": 112}, False),
        ({"baseline": "blur", "blur_sigma": 5.0}, True),
        ({"baseline": "blur", "blur_sigma": 2.5}, False),
    ):
        document["metrics"]["bounding_box"] = {
            "class": "lit_iba.metrics.Insertion",
            "settings": settings,
            "better": "higher",
        }
        (run / "results.json").write_text(json.dumps(document))
        assert any("blur_sigma 5" in text for text in said(run).cautions) == wanted, settings


def test_of_one_method_nothing_is_said_about_others(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(explainers={"per_sample_iba": (0.5, {}, 0.1)}))
    said = answer(run, build_tables(run)).headline
    assert said.startswith("IBA Per-Sample is the only method in Degradation")
    assert "separated" not in said

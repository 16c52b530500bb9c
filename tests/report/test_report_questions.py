"""Runs that are held against each other must answer the same question; what differs is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_run import fake_run

from lit_iba.errors import InputError
from lit_iba.report import read_run, write_report
from lit_iba.report.published import lookup
from lit_iba.report.quantities import paired
from lit_iba.report.runs import ComparedRuns, compare_runs
from lit_iba.report.tables import published_for

Change = Callable[[dict[str, Any]], object]


def two_runs(
    folder: Path, change: Change, both: Change = lambda document: None, images: int = 40
) -> tuple[Path, Path]:
    """Two runs alike in all but one thing."""
    runs = fake_run(folder / "one"), fake_run(folder / "two", images=images)
    for path, edits in zip(runs, ((both,), (both, change)), strict=True):
        document = json.loads((path / "results.json").read_text())
        for edit in edits:
            edit(document)
        (path / "results.json").write_text(json.dumps(document))
    return runs


def compared(*arguments: Any, **given: Any) -> ComparedRuns:
    one, two = two_runs(*arguments, **given)
    return compare_runs(read_run(one), [read_run(two)])


def test_runs_of_one_question_have_nothing_to_say(tmp_path: Path) -> None:
    def speed(document: dict[str, Any]) -> None:
        document["metrics"]["degradation_8"]["settings"]["forward_batch_size"] = 3

    assert compared(tmp_path, speed).cautions == []


def test_a_default_is_the_same_whether_it_is_written_or_left_out(tmp_path: Path) -> None:
    def left_out(document: dict[str, Any]) -> None:
        document["explainers"]["per_sample_iba"]["settings"].pop("beta")
        document["explainers"]["integrated_gradients"]["settings"].pop("steps")

    assert compared(tmp_path, left_out).cautions == []


def settings(**changes: Any) -> Change:
    return lambda document: document["data"].update(changes)


SELECTION = {"max_images": 40, "max_box_fraction": None, "seed": 0, "min_probability": None}


@pytest.mark.parametrize(
    ("both", "change", "said"),
    [
        (settings(target="label"), settings(target="predicted"), "target label and predicted"),
        (settings(identity="a"), settings(identity="b"), "of different data"),
        (settings(), settings(identity=None), "two does not say which images"),
        (settings(identity=None), settings(), "one and two do not say which images"),
        (settings(size=[224, 224]), settings(size=[112, 112]), "different sizes"),
        (
            settings(selection=SELECTION),
            settings(selection=SELECTION | {"max_box_fraction": 0.33}),
            "judge other images: max_box_fraction None and 0.33",
        ),
        (
            settings(selection=SELECTION),
            settings(selection=SELECTION | {"min_probability": 0.6}),
            "judge other images: min_probability None and 0.6",
        ),
        (  # as older runs say it
            settings(left_out={"min_probability": 0.5, "images": 3}),
            settings(left_out={"min_probability": 0.6, "images": 4}),
            "judge other images: min_probability 0.5 and 0.6",
        ),
        (
            settings(selection=SELECTION),
            settings(selection=SELECTION | {"seed": 1}),
            "draw their images differently: seed 0 and 1",
        ),
        (
            settings(),
            lambda document: document["classifier"].update(objective="multilabel"),
            "objective classification and multilabel",
        ),
        (
            lambda document: document.update(network={"preprocessing": {"crop": 224}}),
            lambda document: document.update(network={"preprocessing": {"crop": 64}}),
            "prepare pictures differently: crop 224 and 64",
        ),
        (
            settings(statistics_files={"grad_cam": {"a": "1"}}),
            settings(statistics_files={"grad_cam": {"a": "2"}}),
            "grad_cam have statistics of other texts",
        ),
        (
            settings(),
            lambda document: document["explainers"]["grad_cam"].update({"class": "centre"}),
            "grad_cam is another explainer in each: grad_cam in one, centre in two",
        ),
        (
            settings(),
            lambda document: document["explainers"]["grad_cam"].update({"class": "my.GradCAM"}),
            "grad_cam is another explainer in each: grad_cam in one, my.GradCAM in two",
        ),
        (
            settings(),
            lambda document: document["explainers"]["integrated_gradients"]["settings"].update(
                steps=20
            ),
            "integrated_gradients is set differently: steps 50 and 20",
        ),
        (  # a default of a signature, and one of a preset
            lambda document: document["explainers"]["integrated_gradients"]["settings"].clear(),
            lambda document: document["explainers"]["integrated_gradients"]["settings"].update(
                multiply_by_inputs=False
            ),
            "set differently: multiply_by_inputs True and False.",
        ),
        (
            lambda document: document["explainers"]["per_sample_iba"]["settings"].clear(),
            lambda document: document["explainers"]["per_sample_iba"]["settings"].update(beta=20),
            "set differently: beta 10 and 20.",
        ),
        (
            settings(),
            lambda document: document["metrics"]["degradation_8"]["settings"].update(tile=14),
            "The metric degradation_8 is set differently: tile 8 and 14",
        ),
    ],
)
def test_a_difference_of_the_question_is_said(
    tmp_path: Path, both: Change, change: Change, said: str
) -> None:
    (caution,) = compared(tmp_path, change, both).cautions
    assert said in caution


@pytest.mark.parametrize(
    "change",
    [{"class": "insertion"}, {"class": "my.Degradation"}, {"better": "lower"}],
)
def test_different_metrics_of_one_name_are_not_compared(
    tmp_path: Path, change: dict[str, str]
) -> None:
    one, two = two_runs(tmp_path, lambda d: d["metrics"]["degradation_8"].update(change))
    found = compare_runs(read_run(one), [read_run(two)])
    assert [metric.info.cls for metric in found.metrics] == ["bounding_box", "sensitivity_n"]
    (caution,) = found.cautions
    assert "degradation_8 is another metric in each and is not compared" in caution
    tests = paired(read_run(one), others=[read_run(two)])
    assert {row.metric for row in tests} == {"bounding_box", "sensitivity_n"}
    # Of three runs, the one with the same metric is compared.
    third = fake_run(tmp_path / "three")
    both = compare_runs(read_run(one), [read_run(two), read_run(third)]).metrics[0]
    assert both.info.cls == "degradation"
    for _, cells in both.rows:
        assert cells[1] is None
        assert cells[2] is not None


def test_pairs_of_different_metrics_alone_are_refused(tmp_path: Path) -> None:
    def insertion(document: dict[str, Any]) -> None:
        for metric in document["metrics"].values():
            metric["class"] = "insertion"

    one, two = two_runs(tmp_path, insertion)
    with pytest.raises(InputError, match="no image and quantity in common"):
        paired(read_run(one), others=[read_run(two)])


def test_how_many_images_a_mean_is_over_is_shown_where_it_differs(tmp_path: Path) -> None:
    one, two = two_runs(tmp_path, lambda document: None, images=30)
    found = compare_runs(read_run(one), [read_run(two)])
    assert any(
        "of degradation_8 are over different numbers of images: 40 in one, 30 in two" in text
        for text in found.cautions
    )
    write_report(one, others=[two])
    for name in ("report.html", "report.md"):
        text = (one / name).read_text()
        assert "(n = 40)" in text
        assert "(n = 30)" in text
    write_report(one, others=[one])
    assert "(n = " not in (one / "report.md").read_text()


def test_a_class_of_the_users_own_is_not_ours_of_the_same_name() -> None:
    assert lookup("bounding_box", {}, "resnet50", "lit_iba.baselines.GradCAM")
    assert not lookup("bounding_box", {}, "resnet50", "my.GradCAM")
    assert not lookup("my.BoundingBox", {}, "resnet50", "grad_cam")


def test_a_published_number_goes_by_the_class_and_not_by_the_name(
    make_run: Callable[..., Path],
) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    document["explainers"]["grad_cam"]["class"] = "centre"
    (run / "results.json").write_text(json.dumps(document))
    assert published_for(read_run(run), "bounding_box", "grad_cam") == (None, False)
    document["explainers"]["grad_cam"]["class"] = "lit_iba.baselines.GradCAM"
    (run / "results.json").write_text(json.dumps(document))
    number, same = published_for(read_run(run), "bounding_box", "grad_cam")
    assert number is not None
    assert (number.value, same) == (0.465, True)
    document["metrics"]["bounding_box"]["settings"] = {"max_box_fraction": 1.0}
    (run / "results.json").write_text(json.dumps(document))
    assert published_for(read_run(run), "bounding_box", "grad_cam") == (None, False)


def test_what_a_checkpoint_was_trained_with_decides_the_published_number_and_is_shown(
    make_run: Callable[..., Path],
) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    readout = document["explainers"]["readout_iba"]
    readout["settings"] = {"checkpoint": "readout.ckpt"}
    for trained, wanted in (
        ({"layer": "layer2", "beta": 10.0, "preset": "paper"}, True),
        ({"layer": "layer4", "beta": 10.0, "preset": "paper"}, False),
        ({"layer": "layer2", "beta": 1.0, "preset": "paper"}, False),
        ({"layer": "layer2", "beta": 10.0, "smoothing_sigma": 2.0}, False),
        ({}, False),  # of an older version
    ):
        readout["trained_with"] = trained
        (run / "results.json").write_text(json.dumps(document))
        number, same = published_for(read_run(run), "bounding_box", "readout_iba")
        assert (number is not None, same) == (wanted, wanted), trained
    readout["trained_with"] = {"layer": "layer4", "beta": 10.0}
    (run / "results.json").write_text(json.dumps(document))
    write_report(run)
    page = (run / "report.html").read_text()
    assert "layer = layer4, beta = 10.0, checkpoint = readout.ckpt" in page

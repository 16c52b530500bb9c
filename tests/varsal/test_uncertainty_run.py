"""The run against loops over images, its files, that it goes on where it stopped, and the
command.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_toys import kept_bars, make_data
from run_folder_toys import read_or_refused
from uncertainty_toys import ToyPosterior

from lit_iba import FrozenClassifier, InputError
from lit_iba.cli.main import main
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.metrics.low_k_perturbation import LowKPerturbation
from lit_iba.varsal import uncertainty_run
from lit_iba.varsal.explainer import sample_map
from lit_iba.varsal.uncertainty import LEVELS, border_correlation, correlation
from lit_iba.varsal.uncertainty_results import results_of, table_rows
from lit_iba.varsal.uncertainty_run import (
    UncertaintySettings,
    changed_images,
    figure_7,
    run_uncertainty,
)

TOY = "uncertainty_toys.ToyPosterior"
SETTINGS = UncertaintySettings(
    ("brightness", "gaussian_noise"),
    (1, 5),
    samples=3,
    calibrated_severities=(0, 5),
    percentages=(20, 60),
    batch_size=3,
    forward_batch_size=5,
    gallery=2,
    resamples=50,
)


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return FrozenClassifier("small_cnn", "random")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    root = tmp_path_factory.mktemp("uncertainty") / "data"
    make_quickstart(root, QuickstartSettings(4, 8, 4, val_shard_size=4))
    return ShardIndex.load(root / "val")


def measured(
    classifier: FrozenClassifier,
    data: ShardIndex,
    out: Path,
    settings: UncertaintySettings = SETTINGS,
):
    return run_uncertainty(classifier, TOY, {}, data, out, settings)


def test_the_run_is_the_loop_over_images(
    classifier: FrozenClassifier, data: ShardIndex, tmp_path: Path
) -> None:
    found = measured(classifier, data, tmp_path)
    metric, toy = LowKPerturbation((20, 60)), ToyPosterior(classifier)
    batches = [
        batch
        for shard in data.shards
        for batch in shard_batches(shard, classifier.preprocessing, 1)
    ]
    assert found.keys == [batch["key"][0] for batch in batches]
    for i, batch in enumerate(batches):
        image = classifier.images(batch["picture"])
        for column, condition in enumerate(SETTINGS.conditions):
            changed = changed_images(classifier, image, batch["key"], condition, 0)
            mean, deviation = toy.posterior(changed)
            rows = metric.judge(classifier, changed, torch.zeros(1, dtype=torch.int64), mean)
            assert found.rows["error"][i, column] == pytest.approx(
                float(rows["kl"].mean()), rel=1e-3, abs=1e-6
            )
            assert found.rows["deviation"][i, column] == pytest.approx(
                float(deviation.mean()), rel=1e-4
            )
            p = classifier(changed).detach().double().softmax(dim=1)
            entropy = float(-(p * p.log()).sum())
            assert found.rows["entropy"][i, column] == pytest.approx(entropy, rel=1e-4)
            assert found.rows["least_confidence"][i, column] == pytest.approx(
                1 - float(p.max()), rel=1e-4
            )
            border = float(border_correlation(mean, deviation))
            assert found.rows["border"][i, column] == pytest.approx(border, abs=1e-3)
            ratio = float(deviation.mean() / mean.std(correction=0))
            assert found.rows["standardized_deviation"][i, column] == pytest.approx(ratio, rel=1e-4)
    assert SETTINGS.calibrated == [("clean", 0), ("brightness", 5), ("gaussian_noise", 5)]
    assert found.rows["outcomes"].shape == (8, 3, 4)


def test_sampled_maps_have_the_posterior_s_mean_and_deviation(classifier: FrozenClassifier) -> None:
    mean, deviation = torch.full((1, 60, 60), 3.0), torch.full((1, 60, 60), 0.5)
    drawn = sample_map(mean, deviation, [torch.Generator().manual_seed(0)])
    assert [float(drawn.mean()), float(drawn.std())] == pytest.approx([3, 0.5], abs=0.03)


def test_measurements_do_not_depend_on_batches(
    classifier: FrozenClassifier, data: ShardIndex, tmp_path: Path
) -> None:
    one = measured(classifier, data, tmp_path / "a")
    settings = UncertaintySettings(**{**vars(SETTINGS), "batch_size": 1, "forward_batch_size": 64})
    other = measured(classifier, data, tmp_path / "b", settings)
    for name, values in one.rows.items():
        np.testing.assert_allclose(other.rows[name], values, rtol=1e-3, atol=1e-6)


def test_results_follow_from_the_rows(
    classifier: FrozenClassifier, data: ShardIndex, tmp_path: Path
) -> None:
    found = measured(classifier, data, tmp_path)
    results = results_of(found, SETTINGS)
    last = results["conditions"][-1]
    assert (last["corruption"], last["severity"], last["images"]) == ("gaussian_noise", 5, 8)
    assert last["error"]["mean"] == pytest.approx(found.rows["error"][:, -1].mean())
    ratio = found.rows["deviation"][:, -1] / found.rows["deviation"][:, 0]
    assert last["deviation_over_clean"]["mean"] == pytest.approx(ratio.mean())
    assert ratio.mean() > 1.2  # noise makes the toy unsure
    one = np.corrcoef(found.rows["deviation"].ravel(), found.rows["error"].ravel())[0, 1]
    assert results["all"]["correlation"]["deviation"]["pearson"]["value"] == pytest.approx(one)
    clean = {name: found.rows[name][:, 0] for name in ("deviation", "error", "entropy")}
    given = correlation(clean["deviation"], clean["error"], "spearman", 50, given=clean["entropy"])
    relations = results["conditions"][0]["correlation"]
    assert relations["deviation"]["spearman_given_entropy"]["value"] == given.value
    assert set(relations["entropy"]) == {"spearman", "pearson"}
    assert set(results["abstain"]["clean"]) == set(relations)
    share = results["calibration"][1]["mean_map"]["coverage"][LEVELS.index(0.7)]
    outcomes, error = (
        found.rows["outcomes"][:, 1, :3],
        found.rows["error"][:, SETTINGS.conditions.index(("brightness", 5))],
    )
    # Three samples and the tested one make four places; the band of 70 % holds the inner two, and
    # ties.
    inside = (outcomes.min(axis=1) <= error) & (error <= outcomes.max(axis=1))
    assert share == pytest.approx(inside.mean())
    assert len(table_rows(found, SETTINGS)) == 8 * 5
    assert json.loads(json.dumps(results)) is not None


def test_a_stopped_run_goes_on(
    classifier: FrozenClassifier, data: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(classifier, data, tmp_path)
    files = sorted((tmp_path / "measured").iterdir())
    assert len(files) == 2
    files[0].unlink()
    done: list[str] = []
    original = uncertainty_run._measure
    monkeypatch.setattr(
        uncertainty_run, "_measure", lambda *given: (done.append(given[-1]), original(*given))[1]
    )
    second = measured(classifier, data, tmp_path)
    assert done == [files[0].stem]
    for name, values in first.rows.items():
        np.testing.assert_array_equal(second.rows[name], values)
    with pytest.raises(InputError, match=r"other settings.* afresh \(delete .*/measured\)$"):
        measured(classifier, data, tmp_path, UncertaintySettings(**{**vars(SETTINGS), "seed": 1}))


def test_the_bar_comes_to_its_end(
    classifier: FrozenClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pictures are damaged, and where half of it was done before."""
    bars = kept_bars(monkeypatch, uncertainty_run)
    damaged = make_data(tmp_path / "data", 8, corrupt=(1, 6))
    for _ in range(2):
        measured(classifier, damaged, tmp_path / "run")
        min((tmp_path / "run" / "measured").iterdir()).unlink()
    first, second = bars
    assert (first.done, first.total, set(first._left.values())) == (30, 30, {0})
    assert second.done == second.total
    assert set(second._left.values()) == {0}


def test_figure_7_shows_clean_and_the_highest_severity(classifier: FrozenClassifier) -> None:
    pictures = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8)
    rows = figure_7(classifier, ToyPosterior(classifier), pictures, ["a", "b", "c"], SETTINGS)
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    assert [(p["corruption"], p["severity"]) for p in rows[1]["panels"]] == [
        ("clean", 0),
        ("brightness", 5),
        ("gaussian_noise", 5),
    ]
    assert (rows[2]["panels"][0]["picture"].int() - pictures[2].int()).abs().max() <= 1
    assert rows[2]["panels"][1]["picture"].float().mean() > pictures[2].float().mean() + 20


def test_the_command_writes_tables_plots_and_a_page(
    data: ShardIndex,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = str(Path(data.shards[0].path).parent)
    arguments = [
        "uncertainty",
        "--data",
        shards,
        "--out",
        str(tmp_path),
        "--explainer",
        TOY,
        "--classifier.model",
        "small_cnn",
        "--classifier.weights",
        "random",
        "--corruptions",
        "[brightness, motion_blur]",
        "--severities",
        "[5]",
        "--samples",
        "3",
        "--percentages",
        "[50]",
        "--gallery",
        "1",
        "--resamples",
        "20",
        "--device",
        "cpu",
    ]
    assert main(arguments, "evaluate.py") == 0, capsys.readouterr().err
    results = read_or_refused(tmp_path, tmp_path_factory.mktemp("elsewhere"))
    assert results["data"]["used"] == 8
    assert [c["corruption"] for c in results["conditions"]] == [
        "clean",
        "brightness",
        "motion_blur",
    ]
    text = (tmp_path / "uncertainty.md").read_text()
    assert re.search(r"\| clean \| entropy of the prediction \| -?\d\.\d\d \[", text)
    rows = list(csv.DictReader((tmp_path / "uncertainty.csv").read_text().splitlines()))
    assert len(rows) == 24
    assert float(rows[0]["error"]) >= 0
    for name in ("figure_7", "severity", "relation", "calibration", "abstain"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in (tmp_path / "uncertainty.md").read_text()
    page = (tmp_path / "uncertainty.html").read_text()
    assert page.count("<img ") == 3 * 3 + 4
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "motion blur 5" in page


def test_what_cannot_be_measured_is_refused(
    classifier: FrozenClassifier, data: ShardIndex, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'saliency' gives no uncertainty"):
        run_uncertainty(classifier, "saliency", {}, data, tmp_path, SETTINGS)
    for wrong, part in (
        ({"corruptions": ("fog",)}, "fog"),
        ({"severities": (0,)}, "severity is 0"),
        ({"severities": (1, 1)}, "named twice"),
        ({"samples": -1}, "samples is -1"),
        ({"calibrated_severities": (2,), "severities": (1,)}, "calibrated_severities"),
        ({"percentages": (60, 20)}, "percentages"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(InputError, match=part):
            UncertaintySettings(**wrong)

"""A sweep: which combinations there are, which trainings they need, and what is drawn of them."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning import Fabric
from matplotlib.figure import Figure

from lit_iba import FrozenClassifier, InputError
from lit_iba.cli.main import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.evaluation.sweep import Combine, Sweep, combinations
from lit_iba.report import read_run
from lit_iba.report.run_folder import MethodResult
from lit_iba.report.sweep import Combinations, _lines, write_sweep

CONFIGS = Path(__file__).parents[2] / "configs" / "evaluate"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quickstart(tmp_path_factory.mktemp("sweep") / "digits", QuickstartSettings(4, 4, 4))


def test_each_varies_one_setting_from_the_base_and_all_takes_every_combination() -> None:
    vary = {"a": [1, 2], "model.b": [0.1, 10.0, 1e-5]}
    each = combinations(vary, {"a": 1, "model.b": 0.1, "c": 0}, "each")
    assert each == {
        "base": {"a": 1, "model.b": 0.1},
        "a-2": {"a": 2, "model.b": 0.1},
        "b-10": {"a": 1, "model.b": 10.0},
        "b-1e-05": {"a": 1, "model.b": 1e-5},
    }
    every = combinations(vary, {}, "all")
    assert len(every) == 6
    assert every["a-2+b-0.1"] == {"a": 2, "model.b": 0.1}


@pytest.mark.parametrize(
    ("vary", "settings", "said"),
    [
        ({}, {}, "vary names no values"),
        ({"a": []}, {"a": 1}, "vary names no values"),
        ({"a": "text"}, {"a": 1}, "vary names no values"),
        ({"a": [1]}, {"b": 1}, "say in settings what it is"),
        ({"a": [2, 2.0]}, {"a": 1}, "'a-2' twice"),
    ],
)
def test_what_gives_no_combinations_is_refused(
    vary: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        combinations(vary, settings, "each")


def test_the_search_spaces_are_those_of_the_papers_tables() -> None:
    table2, table3, figure9 = (
        yaml.safe_load((CONFIGS / f"iba_{name}_resnet50.yaml").read_text())
        for name in ("table2", "table3", "figure9")
    )
    assert table2["vary"] == {
        "learning_rate": [0.03, 0.1, 0.3, 1, 3, 10],
        "beta": [0.001, 0.01, 0.1, 1, 10, 100, 300],
        "steps": [1, 3, 5, 10, 30, 100],
        "copies": [1, 5, 10, 30],
        "smoothing_sigma": [0.5, 1, 2],
    }
    assert len(combinations(table2["vary"], table2["settings"], "each")) == 22
    beta, rate = table3["vary"].values()
    assert set(beta) == {0.1, 1, 10, 100} | {0.01}  # the last one of table 4
    assert rate == [1e-4, 1e-5, 1e-6]
    assert list(table3["settings"].values()) == [10, 1e-5]
    assert figure9["settings"] == {"layer": "layer1"}
    assert figure9["vary"] == {"smoothing_sigma": [0, 2], "steps": [1, 5, 10, 100]}
    # Table 4 and figure 6 take the readouts that the sweep of table 3 trains.
    trained = {
        f"runs/iba_table3_resnet50/trained/{name}/checkpoints/best.ckpt"
        for name in combinations(table3["vary"], table3["settings"], "each")
    }
    for name in ("table4", "figure6_sanity", "figure6_sensitivity"):
        given = yaml.safe_load((CONFIGS / f"iba_{name}_resnet50.yaml").read_text())["explainers"]
        readouts = {k: v for k, v in given.items() if k.startswith("readout")}
        assert readouts
        for settings in readouts.values():
            assert settings["checkpoint"] in trained
            beta_name = "base" if settings["beta"] == 10 else f"beta-{settings['beta']:g}"
            assert f"/{beta_name}/" in settings["checkpoint"]


@pytest.mark.slow
def test_a_sweep_is_judged_and_drawn(digits: Path, tmp_path: Path) -> None:
    config = {
        "classifier": {"model": "small_cnn", "weights": "random"},
        "data": str(digits / "test"),
        "explainer": "per_sample_iba",
        "settings": {"layer": "layer3", "copies": 1},
        "combine": "all",
        "vary": {"smoothing_sigma": [0.0, 2.0], "steps": [1, 2]},
        "metrics": {"bounding_box": {}},
        "statistics_data": str(digits / "train"),
        "out": str(tmp_path / "out"),
        "gallery": 1,
        "accelerator": "cpu",
        "report": False,
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    assert main(["sweep", "--config", str(tmp_path / "sweep.yaml")]) == 0
    write_sweep(tmp_path / "out")
    run = read_run(tmp_path / "out")
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["smoothing_sigma"], row["steps"]) for row in rows] == [
        ("0.0", "1"),
        ("0.0", "2"),
        ("2.0", "1"),
        ("2.0", "2"),
    ]
    for row in rows:
        result = run.results["bounding_box"][row["combination"]]
        assert float(row["bounding_box"]) == result.score
        settings = run.explainers[row["combination"]].settings
        assert settings["steps"] == int(row["steps"])
        assert settings["layer"] == "layer3"
    assert run.gallery is not None
    first, last = (run.gallery.heatmaps[rows[i]["combination"]] for i in (0, -1))
    assert not torch.equal(first, last)
    panels = list((tmp_path / "out").glob("panel_*.png"))
    assert len(panels) == 1
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 1000
    # Nothing is done again, and what is drawn is the same.
    before = panels[0].read_bytes()
    heatmaps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "heatmaps").rglob("*.*")}
    assert main(["sweep", "--config", str(tmp_path / "sweep.yaml")]) == 0
    assert {path: path.stat().st_mtime_ns for path in heatmaps} == heatmaps
    write_sweep(tmp_path / "out")
    assert panels[0].read_bytes() == before


@pytest.mark.parametrize(
    ("combine", "vary"),
    [("all", {"seed": [1]}), ("all", {"smooth": [0.0, 1.0], "seed": [1]}), ("each", {"seed": [0]})],
)
def test_a_setting_with_one_value_is_drawn_too(
    digits: Path, tmp_path: Path, combine: Combine, vary: dict[str, Any]
) -> None:
    sweep = Sweep(
        FrozenClassifier("small_cnn", "random"),
        "gradient",
        vary,
        {"bounding_box": {}},
        tmp_path,
        settings={"seed": 0},
        combine=combine,
        data=digits / "test",
        gallery=1,
    )
    sweep.run(Fabric(accelerator="cpu", devices=1))
    assert {path.name for path in write_sweep(tmp_path)} > {"sweep.csv", "sweep.png"}
    assert len(list(tmp_path.glob("panel_*.png"))) == 1


def test_lines_hold_all_other_settings_still() -> None:
    values = combinations({"a": [3, 1], "b": [1, 2]}, {"a": 3, "b": 1}, "each")
    found = Combinations("each", ["a", "b"], values)
    assert found.lines("a") == [("b 1", [(1, "a-1"), (3, "base")])]
    assert found.lines("b") == [("a 3", [(1, "base"), (2, "b-2")])]


def test_every_combination_is_trained_once_and_goes_on_where_it_stopped(
    digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "fit.yaml").write_text("trainer: {max_epochs: 1}\n")
    calls: list[list[str]] = []
    statuses = [0, 75, 0]

    def sweep(**changes: Any) -> Sweep:
        given: dict[str, Any] = {"model.init_args.beta": 10.0, "seed": 3}
        return Sweep(
            FrozenClassifier("small_cnn", "random"),
            "readout_iba",
            {"model.init_args.beta": [1.0, 10.0]},
            {"bounding_box": {}},
            tmp_path / "out",
            settings=given | changes,
            train=[str(tmp_path / "fit.yaml")],
            fit=lambda arguments: (calls.append(arguments), statuses.pop(0))[1],
            data=digits / "test",
        )

    made = sweep()
    assert made.explainers["beta-1"] == {
        "explainer": "readout_iba",
        "seed": 3,
        "checkpoint": str(tmp_path / "out/trained/beta-1/checkpoints/best.ckpt"),
    }
    with pytest.raises(InputError, match="beta-1 ended with status 75; start the sweep again"):
        made.train_all()
    assert calls[0] == [
        f"--config={tmp_path / 'fit.yaml'}",
        "--model.init_args.beta=10.0",
        f"--trainer.default_root_dir={tmp_path / 'out/trained/base'}",
        "--ckpt_path=last",
    ]
    sweep().train_all()
    assert [next(a for a in call if "beta=" in a) for call in calls] == [
        "--model.init_args.beta=10.0",
        "--model.init_args.beta=1.0",
        "--model.init_args.beta=1.0",  # the one that was stopped, and no other
    ]
    sweep().train_all()
    assert len(calls) == 3
    with pytest.raises(InputError, match="trained with other settings"):
        sweep(**{"trainer.max_epochs": 2}).train_all()
    (tmp_path / "fit.yaml").write_text("trainer: {max_epochs: 2}\n")
    with pytest.raises(InputError, match="trained with other settings"):
        sweep().train_all()


def test_a_training_is_told_the_settings_as_they_are(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model.init_args.classifier": {"model": "small_cnn", "weights": "random"},
        "model.init_args.layer": "layer1",
        "model.init_args.taps": ["layer3"],
        "data.init_args.train": str(digits / "train"),
        "trainer.precision": "32-true",
        "trainer.callbacks": [],
        "trainer.max_epochs": 2,
        "trainer.limit_val_batches": None,
    }
    # As a command line gives them one by one; and one of the explainer.
    below = {
        "trainer": {"max_steps": 7},
        "model": {"init_args": {"readout": {"hidden": [8]}}},
        "seed": 3,
    }
    sweep = Sweep(
        FrozenClassifier("small_cnn", "random"),
        "readout_iba",
        {"model": {"init_args": {"target": ["label", "predicted"]}}},
        {"bounding_box": {}},
        tmp_path / "out",
        settings=settings | below,
        combine="all",
        train=[str(CONFIGS.parent / "train" / "readout_resnet50.yaml")],
        fit=main,
        data=digits / "test",
    )
    checkpoint = str(tmp_path / "out/trained/target-label/checkpoints/best.ckpt")
    own = {"explainer": "readout_iba", "seed": 3, "checkpoint": checkpoint}
    assert sweep.explainers["target-label"] == own
    settings |= {"trainer.max_steps": 7, "model.init_args.readout.hidden": [8]}
    for target in ("label", "predicted"):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", *sweep.trainings[f"target-{target}"], "--print_config"])
        told = yaml.safe_load(capsys.readouterr().out)
        for key, value in {**settings, "model.init_args.target": target}.items():
            found = told
            for part in key.split("."):
                found = found[part]
            assert found == value, key


@pytest.mark.parametrize("vary", [{"model.beta": [1]}, {"model": {"beta": [1]}}])
def test_a_setting_of_a_training_needs_one(
    vary: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'model\.beta' is a setting of a training"):
        Sweep(
            FrozenClassifier("small_cnn", "random"),
            "random",
            vary,
            {"bounding_box": {}},
            tmp_path,
            combine="all",
            data=digits / "test",
        )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([2.5, 0.1, 1, 0.5], [0.1, 0.5, 1, 2.5]),
        ([10, "auto", 2.0], [2.0, 10, "auto"]),
        (["b", True, None, 3, "a"], [3, None, True, "a", "b"]),
        ([[0.2], [0.1]], [[0.1], [0.2]]),
    ],
)
def test_numbers_are_drawn_in_the_order_of_their_size(given: list[Any], wanted: list[Any]) -> None:
    values = {f"a-{value}": {"a": value} for value in given}
    found = Combinations("each", ["a"], values)
    assert found.lines("a") == [("", [(value, f"a-{value}") for value in wanted])]
    result = MethodResult(0.5, 0.1, 3)
    run = SimpleNamespace(results={"m": dict.fromkeys(values, result)})
    axes = Figure().subplots()
    _lines(axes, run, "m", found.lines("a"))  # type: ignore[arg-type]
    (line,) = axes.lines[:1]
    assert list(line.get_xdata()) == sorted(line.get_xdata())

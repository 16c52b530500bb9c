"""Trainings, benchmarks and commands of other objectives than classes."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_toys import SIDE, make_data
from lightning import Trainer

from lit_iba import Benchmark, FrozenClassifier, InputError, ReadoutIBA
from lit_iba.classifier import recorded_classifier
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule, ShardIndex
from lit_iba.iba import ReadoutTraining
from lit_iba.input_iba import InputIBATraining
from lit_iba.varsal import VarSalTraining

SMALL = {"model": "small_cnn", "weights": "random"}
NUMBER: dict[str, Any] = SMALL | {
    "num_classes": 1,
    "objective": {"name": "regression", "tolerance": 0.05},
}
SEGMENTER: dict[str, Any] = {
    "model": "objective_run_toys:segmenter",
    "weights": "random",
    "objective": "segmentation",
    "output": "out",
    "preprocessing": {"resize": None, "crop": SIDE},
}
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return make_data(tmp_path_factory.mktemp("data"), count=8)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


def fitted(training: Any, folder: Path) -> Trainer:
    """A trainer after two steps."""
    module = QuickstartDataModule(
        str(folder / "data"),
        train_samples=16,
        val_samples=4,
        test_samples=4,
        batch_size=8,
        num_workers=0,
    )
    trainer = Trainer(max_steps=2, limit_val_batches=1, default_root_dir=folder, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of modules in eval mode and few workers
        trainer.fit(training, module)
    return trainer


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "picture": torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator),
        "label": torch.tensor([1, 0, -1]),
        "key": ["a", "b", ""],
        "weight": torch.tensor([1.0, 1.0, 0.0]),
    }


def test_a_readout_is_trained_for_a_number_and_knows_it_when_it_is_loaded(digits: Path) -> None:
    training = ReadoutTraining(
        NUMBER, "layer1", ["layer2", "layer3"], target="predicted", statistics_images=8
    )
    trainer = fitted(training, digits)
    logged = trainer.callback_metrics
    assert {"train/objective_loss", "val/objective_loss", "val/probability"} <= logged.keys()
    assert 0 < float(logged["val/probability"]) <= 1
    trainer.save_checkpoint(digits / "number.ckpt")
    explainer = ReadoutIBA.load(digits / "number.ckpt")
    assert explainer.classifier.objective.record == {
        "name": "regression",
        "tolerance": 0.05,
        "index": 0,
    }
    assert explainer.attribute(torch.randn(2, 3, 64, 64)).values.shape == (2, 64, 64)


@pytest.mark.parametrize(("target", "kept"), [("predicted", None), ("label", [1.0, 0.0, 0.0])])
def test_the_readouts_loss_is_the_objectives(target: Any, kept: list[float] | None) -> None:
    training = ReadoutTraining(NUMBER, "layer1", ["layer2", "layer3"], target=target)
    seen: dict[str, torch.Tensor] = {}
    loss = training.classifier.objective.loss

    def spy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.update(outputs=outputs, targets=targets)
        return loss(outputs, targets)

    training.classifier.objective.loss = spy  # type: ignore[method-assign]
    given = batch()
    step = training._step(given, 0)
    images = training.images_of(given)
    expected = training.classifier(images)[:, 0] if kept is None else torch.tensor(kept)
    torch.testing.assert_close(seen["targets"], expected, rtol=1e-4, atol=1e-5)
    off = (seen["outputs"][:, 0] - seen["targets"]) / 0.05
    torch.testing.assert_close(step["objective_loss"], off.square() / 2)


@pytest.mark.slow
def test_other_trainings_ask_the_objective_too(digits: Path) -> None:
    number = VarSalTraining(NUMBER, channels=[4, 4])
    trainer = fitted(number, digits)
    assert float(trainer.callback_metrics["val/prediction_kl"]) > 0
    one_pass = InputIBATraining(NUMBER, "layer2", width=8)
    logged = fitted(one_pass, digits).callback_metrics
    assert logged
    assert all(value.isfinite() for value in logged.values())


@pytest.mark.parametrize("objective", ["number", "segmenter", "multilabel"])
def test_a_benchmark_stores_what_was_asked_and_says_what_it_measured(
    objective: str, data: ShardIndex, tmp_path: Path
) -> None:
    made = {
        "number": NUMBER,
        "segmenter": SEGMENTER,
        "multilabel": SMALL | {"objective": "multilabel"},
    }[objective]
    made = made | {"preprocessing": {"resize": None, "crop": SIDE}}
    classifier = FrozenClassifier(**made)
    arguments: Any = (
        data,
        {"saliency": {}, "random": {}},
        {
            "degradation": {"tile": 4, "points": 3},
            "insertion": {"pixels_per_step": 64, "target": "predicted"},
            "low_k_perturbation": {"percentages": [50]},
        },
    )
    run = Benchmark(classifier, *arguments, tmp_path, target="predicted", gallery=2)
    run.run()
    stored = json.loads((tmp_path / "results.json").read_text())
    said = stored["metrics"]["degradation"]["definition"]
    assert classifier.objective.probability_is in said
    assert stored["classifier"]["objective"] == classifier.objective.record
    found = [stored["results"]["degradation"][name] for name in ("saliency", "random")]
    for result in found:  # no number where these networks, never trained, lose nothing
        above = result["extra"]["t1"] > result["extra"]["degraded_probability"]
        assert result["score"] is None or (above and abs(result["score"]) < 10)
    # A second run finds everything, and one that asks something else is refused.
    again = Benchmark(classifier, *arguments, tmp_path, target="predicted", gallery=2)
    again.run()
    other = FrozenClassifier(
        **made | {"objective": {"name": "custom", "loss": f"{__name__}:nothing"}}
    )
    with pytest.raises(InputError):
        Benchmark(other, *arguments, tmp_path, target="predicted", gallery=2).run()


def nothing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss that asks for nothing."""
    return outputs.flatten(1)[:, 0] * 0


def test_labels_of_images_are_no_regions(data: ShardIndex, tmp_path: Path) -> None:
    run = Benchmark(
        FrozenClassifier(**SEGMENTER | {"objective": "segmentation"}),
        make_data(tmp_path / "two", count=2, corrupt=()),
        {"random": {}},
        {"degradation": {"tile": 4, "points": 3}},
        tmp_path / "run",
        target="label",
    )
    with pytest.raises(InputError, match="no targets of the objective 'segmentation'; use target"):
        run.run()


def test_a_command_takes_an_objective_with_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (80, 80), "red").save(tmp_path / "red.png")
    start = ["explain", str(tmp_path / "red.png"), "--explainer", "saliency", "--out"]
    network = ["--classifier.model", "small_cnn", "--classifier.weights", "random"]
    number = [
        "--classifier.num_classes",
        "1",
        "--classifier.objective",
        "{name: regression, tolerance: 0.5}",
    ]
    assert main([*start, str(tmp_path / "one"), *network, *number], "evaluate.py") == 0
    classifier = FrozenClassifier(**NUMBER)
    picture = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    said = f"{float(classifier(classifier.images(picture))):.4g}"
    assert said in capsys.readouterr().out
    labels = ["--classifier.objective", "multilabel", "--target", "3"]
    assert main([*start, str(tmp_path / "two"), *network, *labels], "evaluate.py") == 0
    wrong = ["--target", "old"]
    assert main([*start, str(tmp_path / "three"), *network, *number, *wrong], "evaluate.py") == 2
    assert "the objective 'regression' needs a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "custom", "loss": "os:abort"},
        "os.abort",
        "{name: custom, loss: 'os:abort'}",
        {"name": "os.Abort"},
    ],
)
def test_a_files_objective_runs_no_code(objective: Any) -> None:
    with pytest.raises(InputError, match="a file's functions are not run"):
        recorded_classifier(SMALL | {"objective": objective}, "got.ckpt")

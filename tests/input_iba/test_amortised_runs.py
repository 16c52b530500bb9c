"""Runs of amortised InputIBA's training: which are refused, on several processes, and what they
achieve.
"""

import os
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from amortised_toys import CONFIG, QUICK, little_batch, module_of, own_classifier, pictures
from training_toys import prepare
from warm import run_ranks

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule
from lit_iba.input_iba.amortised import AmortisedInputIBA

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("amortised"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run: two epochs of four batches, three steps a batch."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="was made with small_cnn"):
        AmortisedInputIBA.load(last, FrozenClassifier(SmallCNN().requires_grad_(False)))
    with pytest.raises(InputError, match="needs a checkpoint"):
        build_explainer("amortised_input_iba", FrozenClassifier("small_cnn", "random"))
    with pytest.raises(
        InputError, match="output is 'bit'; it must be one of 'smoothed_lambda', 'sigmoid_alpha'"
    ):
        AmortisedInputIBA.load(last, output="bit")
    with pytest.raises(InputError, match="no statistics yet"):
        AmortisedInputIBA(own_classifier(folder), "layer2").attribute(pictures(1), 0)
    fit = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    for message, changes in {
        "the setting generator_steps is of a fit to one image": [
            "--model.settings",
            '{"generator_steps": 3}',
        ],
        "'sampels' is not a known setting of InputIBA": ["--model.settings", '{"sampels": 3}'],
        "target is 'x'": ["--model.target", "x"],
        "start_batches is -1": ["--model.start_batches", "-1"],
        "critic_width is 0": ["--model.critic_width", "0"],
        "widths[1] is 0": ["--model.widths", "[4, 0]"],
        "did you mean 'layer2'": ["--model.taps", "[layr2]"],
        "does not fit the configured network": [
            "--model.widths",
            "[4, 5]",
            "--ckpt_path",
            str(last),
        ],
    }.items():
        assert main([*fit, *changes], "train.py") == 2, changes
        error = capsys.readouterr().err
        assert message in error, (changes, error)
        assert "Traceback" not in error


def test_several_processes_need_a_strategy_for_parts_without_gradients(
    folder: Path, tmp_path: Path
) -> None:
    module = module_of(folder)
    for strategy, refused in (
        ("ddp", True),
        ("ddp_find_unused_parameters_true", False),
        ("auto", False),
    ):
        module.trainer = L.Trainer(
            strategy=strategy, accelerator="cpu", logger=False, default_root_dir=tmp_path
        )
        with (
            pytest.raises(InputError, match="ddp_find_unused_parameters_true")
            if refused
            else nullcontext()
        ):
            module.on_fit_start()


@pytest.mark.slow
def test_two_processes_step_as_one_with_twice_the_batch(
    folder: Path, last: Path, tmp_path: Path
) -> None:
    sgd = (  # whose steps show the gradients' sizes
        '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}'
    )
    config = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.max_epochs",
        "1",
        "--model.start_batches",
        "0",
    ]
    config += ["--data.train_samples", "8", "--data.folder", str(tmp_path / "data")]
    config += [
        "--model.optimizer",
        sgd,
        "--model.critic_optimizer",
        sgd,
        "--model.settings.lipschitz",
        "gradient_penalty",
    ]
    two = [
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp_find_unused_parameters_true",
        "--data.batch_size",
        "4",
    ]
    command = [
        str(ROOT / "train.py"),
        *config,
        *two,
        "--trainer.default_root_dir",
        str(tmp_path / "two"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = run_ranks(command, environment, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert main([*config, "--trainer.default_root_dir", str(tmp_path / "one")], "train.py") == 0
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for name, value in states[0].items():
        assert torch.allclose(value.double(), states[1][name].double(), rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Found .* in eval mode"
)  # the classifier is frozen on purpose; the CLI says nothing
@pytest.mark.parametrize("lipschitz", ["clip", "gradient_penalty"])
def test_training_brings_the_features_nearer_to_those_that_are_needed(
    folder: Path, tmp_path: Path, lipschitz: str
) -> None:
    """The validation's own distance, on pictures that were not trained on."""
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=32, val_samples=12, test_samples=10, batch_size=8
    )
    rms = {
        name: lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3)
        for name in ("optimizer", "critic_optimizer")
    }
    settings = QUICK | {"samples": 4, "lipschitz": lipschitz}
    module = module_of(folder, widths=[8, 16], critic_width=8, settings=settings, **rms)
    batch = little_batch(folder)
    module.measure(iter([module.images_of(batch)]))
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        max_epochs=3,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        inference_mode=False,
    )
    untrained = trainer.validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    trained = trainer.validate(module, data, verbose=False)[0]
    assert trained["val/loss"] < 0.9 * untrained["val/loss"]
    assert trained["val/start"] == untrained["val/start"]

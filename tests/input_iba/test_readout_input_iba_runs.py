"""Runs of the training of InputIBA in one pass: what they log and keep, how they go on, on several
processes, what they achieve, and what of them is exported.
"""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from one_pass_toys import CONFIG, module_of, own_classifier, pictures
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_toys import prepare
from warm import run_ranks

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.cli.main import main
from lit_iba.export import export_checkpoint, load_exported
from lit_iba.input_iba.readout import ReadoutInputIBA

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("readout"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run: two epochs of four batches."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def test_terms_and_drawings_are_logged(run: Path) -> None:
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    logged = {tag: [e.value for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    for name in ("loss", "feature_loss", "feature_nats", "input_loss", "input_nats", "kept"):
        assert len(logged[f"train/{name}"]) == 8, name
        assert len(logged[f"val/{name}"]) == 2, name
    terms = [logged[f"train/{name}"] for name in ("feature_loss", "input_loss")]
    prices = [logged[f"train/{name}"] for name in ("feature_nats", "input_nats")]
    for step, loss in enumerate(logged["train/loss"]):
        grown = min(1.0, (step + 1) / 4)
        expected = sum(t[step] for t in terms) + grown * 10 * sum(p[step] for p in prices)
        assert loss == pytest.approx(expected, rel=1e-4)
    drawn = Image.open(io.BytesIO(log.Images("val/heatmaps")[0].encoded_image_string))
    # Picture, overlay, map, Lambda, lambda_G and what is seen; two pixels between.
    assert drawn.size == (6 * 66 + 2, 8 * 66 + 2)


def test_a_checkpoint_holds_the_network_and_its_average_alone(folder: Path, last: Path) -> None:
    checkpoint = torch.load(last, weights_only=True)
    assert {n.partition(".")[0] for n in checkpoint["state_dict"]} == {"network", "average"}
    for name in ("network", "average.module"):
        assert int(checkpoint["state_dict"][f"{name}.input_noise.count"]) == 32
    images = pictures(2)
    found = build_explainer("readout_input_iba", own_classifier(folder), {"checkpoint": str(last)})
    loaded = ReadoutInputIBA.load(last)
    heatmap = loaded.attribute(images, 1)
    assert torch.equal(found.attribute(images, 1).values, heatmap.values)
    assert heatmap.unit == "1"
    average = checkpoint["state_dict"]["average.module.out.weight"]
    assert torch.equal(loaded.network.out.weight, average)
    assert not torch.equal(average, checkpoint["state_dict"]["network.out.weight"])


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folder: Path, last: Path) -> None:
    """Stopped by a signal within the first epoch, and within the second."""
    expected, before = torch.load(last, weights_only=True), signal.getsignal(signal.SIGTERM)
    for batch in (2, 7):
        half = folder / f"half_{batch}"
        config = ["fit", "--config", str(folder / "config.yaml")]
        config += ["--trainer.default_root_dir", str(half)]
        callback = {"class_path": "training_toys.SignalAt", "init_args": {"batch": batch}}
        try:
            assert main([*config, "--trainer.callbacks", json.dumps([callback])], "train.py") == 75
        finally:
            signal.signal(signal.SIGTERM, before)
        stopped = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
        assert stopped["global_step"] == batch
        assert main([*config, "--ckpt_path", "last"], "train.py") == 0
        signal.signal(signal.SIGTERM, before)
        found = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
        assert found["global_step"] == expected["global_step"] == 8
        for name, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][name], value), name


def test_two_processes_step_as_one_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    """But for the batch norms' statistics, which are each process's own, as elsewhere: they stay
    those of the start here.
    """
    sgd = '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}'  # shows gradients' sizes
    config = ["fit", "--config", str(folder / "config.yaml"), "--trainer.max_epochs", "1"]
    config += ["--data.train_samples", "8", "--data.folder", str(tmp_path / "data")]
    config += ["--model.optimizer", sgd, "--model.schedule", "constant"]
    callback = {"class_path": f"{__name__}.StatisticsStay"}
    config += ["--trainer.callbacks", json.dumps([callback])]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "4"]
    root = ["--trainer.default_root_dir", str(tmp_path / "two")]
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(ROOT), str(tests), str(tests.parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = run_ranks([str(ROOT / "train.py"), *config, *two, *root], environment, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert main([*config, "--trainer.default_root_dir", str(tmp_path / "one")], "train.py") == 0
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for name, value in states[0].items():
        assert torch.allclose(value.double(), states[1][name].double(), rtol=1e-3, atol=1e-5), name


class StatisticsStay(L.Callback):
    """Batch norms use and keep the statistics that they began with."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        for part in module.network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()


@pytest.mark.parametrize("gradients", [True, False])
def test_what_is_exported(folder: Path, tmp_path: Path, gradients: bool) -> None:
    module = module_of(folder, gradients=gradients)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    images = pictures(3)
    expected = ReadoutInputIBA.load(tmp_path / "last.ckpt").attribute(images, 2).values
    if gradients:
        with pytest.raises(InputError, match="export it as safetensors"):
            export_checkpoint(tmp_path / "last.ckpt", tmp_path / "out")
        export_checkpoint(tmp_path / "last.ckpt", tmp_path / "out", formats=["safetensors"])
    else:
        report = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "out")
        errors = [error for found in report.errors.values() for error in found.values()]
        assert len(errors) == 9  # three formats, three sizes of batch
        assert max(errors) < 1e-4
    assert torch.equal(load_exported(tmp_path / "out").attribute(images, 2).values, expected)
    bits = ReadoutInputIBA.load(tmp_path / "last.ckpt", output="bits")
    assert bits.outputs[0].unit == bits.attribute(images, 2).unit == "bits"


def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="was made with small_cnn"):
        ReadoutInputIBA.load(last, FrozenClassifier(SmallCNN().requires_grad_(False)))
    with pytest.raises(InputError, match="output is 'bit'; it must be one of 'passed', 'mask'"):
        ReadoutInputIBA.load(last, output="bit")
    fit = ["fit", "--config", str(folder / "config.yaml")]
    fit += ["--trainer.default_root_dir", str(tmp_path / "run")]
    for message, changes in {
        "target is 'x'": ["--model.target", "x"],
        "beta_feat is -1": ["--model.beta_feat", "-1"],
        "beta_warmup_steps is -1": ["--model.beta_warmup_steps", "-1"],
        "width / 4 is 0": ["--model.width", "3"],
        "did you mean 'layer2'": ["--model.taps", "[layr2]"],
        "does not fit the configured network": ["--model.width", "12", "--ckpt_path", str(last)],
    }.items():
        assert main([*fit, *changes], "train.py") == 2, changes
        error = capsys.readouterr().err
        assert message in error, (changes, error)
        assert "Traceback" not in error

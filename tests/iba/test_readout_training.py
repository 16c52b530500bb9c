"""Training really trains, resumes, keeps the classifier out of its checkpoints, and refuses what
does not fit.
"""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_toys import prepare

from lit_iba import InputError, ReadoutIBA
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule
from lit_iba.iba.readout_training import ReadoutTraining

CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    layer: layer2
    taps: [layer1, layer2, layer3, fc]
    readout: {{hidden: [16, 16]}}
    statistics_images: 64
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.003}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 96, val_samples: 40, test_samples: 20,
      batch_size: 16}}
trainer: {{default_root_dir: {root}, max_epochs: 2, log_every_n_steps: 1, accelerator: cpu,
    enable_model_summary: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier, a config, and a finished run of two epochs."""
    return prepare(tmp_path_factory.mktemp("training"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


def scalars(run: Path) -> dict[str, list[float]]:
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    assert "val/heatmaps" in log.Tags()["images"]
    return {tag: [event.value for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


@pytest.mark.slow
def test_the_loss_falls_and_everything_is_logged(run: Path) -> None:
    logged = scalars(run)
    for tag in ("loss", "cross_entropy", "information_bits", "accuracy_top1"):
        assert len(logged[f"train/{tag}"]) == 12
        assert len(logged[f"val/{tag}"]) == 2
    assert logged["val/loss"][1] < logged["val/loss"][0] < logged["train/loss"][0]


def test_a_checkpoint_holds_only_what_was_trained(run: Path) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert not [
        name for name in checkpoint["state_dict"] if "classifier" in name or "model." in name
    ]
    explainer = ReadoutIBA.load(run / "checkpoints" / "last.ckpt")
    saved = checkpoint["hyper_parameters"]
    assert explainer.trained_with["layer"] == saved["layer"]
    assert explainer.trained_with["beta"] == saved["beta"]
    images = torch.randn(2, 3, 64, 64)
    assert explainer.attribute(images).values.std() > 0
    assert not any(p.requires_grad for p in explainer.network.parameters())


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folder: Path, run: Path) -> None:
    half = [
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(folder / "half"),
    ]
    assert main(["fit", *half, "--trainer.max_epochs", "1"], "train.py") == 0
    assert main(["fit", *half, "--ckpt_path", "last"], "train.py") == 0
    found, expected = (
        torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for root in (folder / "half", run)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (folder / "half" / "config.yaml").exists()
    assert (folder / "half" / "config_1.yaml").exists(), (
        "the second start's config is kept beside the first's"
    )


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    save_weights(tmp_path / "other.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    last = run / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:-1000])
    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(flipped)
    fit = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    cases = {
        "did you mean 'layer3'": ["--model.layer", "layer33"],
        "other.safetensors": [
            "--model.classifier.weights",
            str(tmp_path / "other.safetensors"),
            "--ckpt_path",
            str(last),
        ],
        "cut.ckpt is damaged": ["--ckpt_path", str(tmp_path / "cut.ckpt")],
        "flipped.ckpt is damaged": ["--ckpt_path", str(tmp_path / "flipped.ckpt")],
        "does not exist": ["--model.classifier.weights", str(tmp_path / "none.pth")],
        "target is 'x'": ["--model.target", "x"],
    }
    for message, changes in cases.items():
        assert main([*fit, *changes], "train.py") == 2, changes
        error = capsys.readouterr().err
        assert message in error, (changes, error)
        assert "Traceback" not in error
    with pytest.raises(InputError, match=r"cut\.ckpt is damaged"):
        ReadoutIBA.load(tmp_path / "cut.ckpt")


def test_a_step_does_not_depend_on_the_batch(folder: Path) -> None:
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=96, val_samples=40, test_samples=20, batch_size=16
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    module = ReadoutTraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")},
        "layer2",
        ["layer2", "fc"],
        readout={"hidden": [8, 8]},
    )
    whole = module._step(batch, 0)
    half = {k: v[8:] for k, v in batch.items()}
    for name, values in module._step(half, 0).items():
        assert torch.allclose(values, whole[name][8:], rtol=1e-4, atol=1e-5), name


@pytest.mark.filterwarnings("ignore:.*(many workers|LeafSpec|eval mode at the start|litlogger).*")
def test_undecodable_samples_weigh_nothing(folder: Path, tmp_path: Path) -> None:
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=96, val_samples=40, test_samples=20, batch_size=8
    )
    module = ReadoutTraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")},
        "layer2",
        ["layer2"],
        readout={"hidden": [8, 8]},
        statistics_images=32,
    )
    trainer = L.Trainer(
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        callbacks=[ModelCheckpoint(tmp_path)],
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    batch = next(iter(data.train_dataloader()))
    batch["weight"][3] = 0
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign] # outside a Trainer there is no log
    module.training_step(batch, 0).backward()
    gradients = [p.grad.clone() for p in module.network.parameters()]
    module.zero_grad()
    batch["picture"][3] = 255 - batch["picture"][3]
    module.training_step(batch, 0).backward()
    for before, parameter in zip(gradients, module.network.parameters(), strict=True):
        assert torch.allclose(before, parameter.grad, atol=1e-7)


def test_a_checkpoint_of_another_layer_of_the_same_shape_is_refused() -> None:
    network = {"model": "resnet18", "weights": "random", "preprocessing": {"crop": 32}}
    trained = ReadoutTraining(network, "layer2.0", ["layer2.0", "layer3"])
    checkpoint = {
        "state_dict": trained.state_dict(),
        "hyper_parameters": {**trained.hparams, "taps": ("layer2.0", "layer3")},
    }
    trained.on_save_checkpoint(checkpoint)
    trained.on_load_checkpoint(checkpoint)
    for layer, tap, said in (
        ("layer2.1", "layer2.0", "has layer 'layer2.0', and the config 'layer2.1'"),
        ("layer2.0", "layer2.1", "has taps"),
    ):
        other = ReadoutTraining(network, layer, [tap, "layer3"])
        with pytest.raises(InputError, match=said):
            other.on_load_checkpoint(checkpoint)

"""VarSal's encoder learns what the classifier needs, resumes exactly, leaves that one alone, and
refuses what does not fit.
"""

import io
import os
from pathlib import Path

import lightning as L
import pytest
import torch
from masking_toys import train_narrow_cnn
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Categorical, MultivariateNormal, kl_divergence
from training_toys import prepare
from warm import run_ranks

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.training.callbacks import HeatmapImages
from lit_iba.varsal.encoder import VarSalEncoder
from lit_iba.varsal.explainer import VarSal
from lit_iba.varsal.varsal_training import VarSalTraining

ROOT = Path(__file__).parents[2]
CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.varsal.VarSalTraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    channels: [6, 4]
    low_k: [50, 90]
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
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("varsal"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run of twelve steps."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


def module_of(folder: Path, **settings: object) -> VarSalTraining:
    torch.manual_seed(0)
    module = VarSalTraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")},
        channels=[6, 4],
        **settings,
    )
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign] # outside a Trainer there is no log
    return module


def little_batch(folder: Path) -> dict:
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=96, val_samples=40, test_samples=20, batch_size=8
    )
    data.setup("fit")
    return next(iter(data.train_dataloader()))


@pytest.mark.slow
def test_terms_and_drawings_are_logged(run: Path) -> None:
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    logged = {
        tag: torch.tensor([e.value for e in log.Scalars(tag)]) for tag in log.Tags()["scalars"]
    }
    beta = 1 / (10 * 64 * 64)
    for stage, count in (("train", 12), ("val", 2)):
        assert len(logged[f"{stage}/loss"]) == count
        terms = logged[f"{stage}/prediction_kl"] + beta * logged[f"{stage}/prior_kl"]
        assert torch.allclose(terms, logged[f"{stage}/loss"], rtol=1e-4)
    assert len(set(logged["val/low_k_kl_random"].tolist())) == 1, (
        "the control is the same at every validation"
    )
    assert logged["val/low_k_kl_random"][0] > 0
    drawn = Image.open(io.BytesIO(log.Images("val/heatmaps")[0].encoded_image_string))
    assert drawn.size == (
        5 * 66 + 2,
        8 * 66 + 2,
    )  # picture, mean, deviation, mask, perturbed picture; two pixels between


def test_loss_is_that_of_equation_5(folder: Path) -> None:
    """Against torch.distributions with the dense covariance, image by image, on a 16-pixel
    picture.
    """
    small = {"preprocessing": {"resize": None, "crop": 16, "mean": [0.5] * 3, "std": [0.25] * 3}}
    module = VarSalTraining(
        {"model": "small_cnn", "weights": "random", **small}, channels=[6, 4], beta=0.01
    ).eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen, terms = module._terms(images, ["a", "b", "c"])
        tri = torch.eye(16).double() + 0.4 * (
            torch.ones(15).double().diag(1) + torch.ones(15).double().diag(-1)
        )
        prior = MultivariateNormal(torch.zeros(256).double(), torch.kron(tri, tri))
        for i in range(3):
            p, q = (
                Categorical(logits=module.classifier(x[i : i + 1])[0])
                for x in (images, seen.images)
            )
            posterior = MultivariateNormal(
                seen.mean[i].flatten().double(),
                seen.log_variance[i].flatten().double().exp().diag(),
            )
            assert float(terms["prediction_kl"][i]) == pytest.approx(
                float(kl_divergence(p, q)), rel=1e-3, abs=1e-6
            )
            assert float(terms["prior_kl"][i]) == pytest.approx(
                float(kl_divergence(posterior, prior)), rel=1e-4
            )
    assert torch.allclose(terms["loss"], terms["prediction_kl"] + 0.01 * terms["prior_kl"])
    assert 25.6 < seen.mask.sum(dim=(1, 2)).min() < seen.mask.sum(dim=(1, 2)).max() < 230.4
    kept = seen.mask > 0.99
    assert kept.any()
    assert torch.allclose(seen.images.movedim(1, -1)[kept], images.movedim(1, -1)[kept], atol=0.1)


def test_a_checkpoint_holds_only_the_encoder(folder: Path, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    assert set(checkpoint["state_dict"]) == {
        f"encoder.{name}" for name in VarSalEncoder([6, 4]).state_dict()
    }
    classifier = FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    found = build_explainer("varsal", classifier, {"checkpoint": str(last)}).attribute(images)
    rebuilt = VarSal.load(last)
    expected = rebuilt.attribute(images, 3)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.uncertainty, expected.uncertainty)
    assert not any(p.requires_grad for p in rebuilt.encoder.parameters())
    assert not rebuilt.encoder.training


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folder: Path, run: Path) -> None:
    half = folder / "half"
    config = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(half),
    ]
    assert main([*config, "--trainer.max_epochs", "1"], "train.py") == 0
    assert main([*config, "--ckpt_path", "last"], "train.py") == 0
    found, expected = (
        torch.load(root / "checkpoints" / "last.ckpt", weights_only=True) for root in (half, run)
    )
    assert found["global_step"] == expected["global_step"] == 12
    assert all(
        torch.equal(found["state_dict"][name], value)
        for name, value in expected["state_dict"].items()
    )


def test_nothing_of_the_classifier_is_trained(folder: Path) -> None:
    module = module_of(folder).train()
    before = {name: value.clone() for name, value in module.classifier.model.state_dict().items()}
    module.training_step(little_batch(folder), 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.encoder.parameters())
    assert module.encoder.training
    assert not any(m.training for m in module.classifier.modules())
    assert not any(p.requires_grad or p.grad is not None for p in module.classifier.parameters())
    assert all(
        torch.equal(value, before[name])
        for name, value in module.classifier.model.state_dict().items()
    )
    optimizer = module.configure_optimizers()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in module.encoder.parameters()
    }
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 5e-4, (0.9, 0.99))


def test_validation_does_not_depend_on_the_batch(folder: Path) -> None:
    module, batch = module_of(folder).eval(), little_batch(folder)
    images = module.images_of(batch)
    with torch.inference_mode():  # as a Trainer validates, also before the first step
        _, whole = module._terms(images, batch["key"])
        _, half = module._terms(images[5:], batch["key"][5:])
    for name, values in half.items():
        assert torch.allclose(values, whole[name][5:], rtol=1e-4, atol=1e-4), name
    module.train().training_step(batch, 0).backward()


def test_undecodable_samples_change_nothing(folder: Path) -> None:
    module, batch = module_of(folder).train(), little_batch(folder)
    batch["weight"][3] = 0

    def step() -> list[torch.Tensor]:
        module.zero_grad()
        module.training_step(batch, 0).backward()
        return [p.grad.clone() for p in module.encoder.parameters()]  # type: ignore[union-attr]

    before = step()
    batch["picture"][3] = 255 - batch["picture"][3]
    assert all(torch.equal(a, b) for a, b in zip(before, step(), strict=True))
    batch["weight"][:] = 0
    assert all(g.abs().sum() == 0 for g in step())


def test_equal_keys_draw_equal_numbers_and_other_epochs_others(folder: Path) -> None:
    module, batch = module_of(folder).eval(), little_batch(folder)
    images = module.images_of(batch)
    with torch.no_grad():
        first, again, other = (
            module._perturb(images, [f"{n}/{k}" for k in batch["key"]]) for n in (0, 0, 1)
        )
    assert torch.equal(first.images, again.images)
    sums = first.mask.sum(dim=(1, 2))
    assert not torch.isclose(sums, other.mask.sum(dim=(1, 2)), rtol=1e-3).any()
    assert len(sums.round().unique()) == len(sums)


def test_a_step_in_bfloat16_is_close_to_one_in_float32(folder: Path) -> None:
    module, batch = module_of(folder).eval(), little_batch(folder)
    images = module.images_of(batch)
    _, exact = module._terms(images, batch["key"])
    with torch.autocast("cpu", torch.bfloat16):
        _, rounded = module._terms(images, batch["key"])
    rounded["loss"].mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.encoder.parameters())  # type: ignore[arg-type]
    assert torch.allclose(rounded["prior_kl"], exact["prior_kl"], rtol=0.02)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(run / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="was made with small_cnn"):
        VarSal.load(last, FrozenClassifier(SmallCNN().requires_grad_(False)))
    with pytest.raises(InputError, match="needs a checkpoint"):
        build_explainer("varsal", FrozenClassifier("small_cnn", "random"))
    with pytest.raises(InputError, match=r"none of .* was trained for these weights"):
        build_explainer("varsal", FrozenClassifier("resnet8", "random"), {"checkpoint": [last]})
    with pytest.raises(InputError, match="map is 'median'; it must be one of 'mean', 'sampled'"):
        VarSal.load(last, map="median")
    fit = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    for message, changes in {
        "prior is 'soft'; it must be one of 'soft_tv', 'standard_normal'": [
            "--model.prior",
            "soft",
        ],
        "'bluur' is not a known baseline": ["--model.baselines", "[bluur]"],
        "temperature 0": ["--model.temperature", "0"],
        "initial_deviation is 0": ["--model.initial_deviation", "0"],
        "channels[1] is 0": ["--model.channels", "[4, 0]"],
        "does not fit the configured network": ["--model.channels", "[6, 5]", "--ckpt_path", last],
    }.items():
        assert main([*fit, *changes], "train.py") == 2, changes
        error = capsys.readouterr().err
        assert message in error, (changes, error)
        assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Found .* in eval mode"
)  # the classifier is frozen on purpose; the CLI says nothing
def test_the_mean_map_keeps_what_the_classifier_needs(tmp_path: Path) -> None:
    """A minute on one core: a classifier and an encoder, both trained on the embedded digits just
    long enough.
    """
    data = QuickstartDataModule(
        str(tmp_path / "data"), train_samples=1500, val_samples=64, test_samples=20, batch_size=32
    )
    data.setup("fit")
    train_narrow_cnn(data, tmp_path / "narrow.safetensors", epochs=4, steps=4 * 47)
    torch.manual_seed(0)
    module = VarSalTraining(
        {"model": "masking_toys:narrow_cnn", "weights": str(tmp_path / "narrow.safetensors")},
        channels=[8, 8, 8, 8],
        optimizer=lambda parameters: torch.optim.Adam(
            parameters, lr=3e-3, weight_decay=5e-4, betas=(0.9, 0.99)
        ),
    )
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[HeatmapImages()],
        # metrics that validated in it cannot be used for another validation outside it
        inference_mode=False,
    )
    untrained = trainer.validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    trained = trainer.validate(module, data, verbose=False)[0]
    assert trained["val/low_k_kl"] < 0.75 * trained["val/low_k_kl_random"]
    assert trained["val/low_k_kl"] < untrained["val/low_k_kl"]
    assert trained["val/loss"] < untrained["val/loss"]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The dirpath has changed"
)  # a second folder, to tell the logs apart
def test_two_processes_train_one_encoder(tmp_path: Path) -> None:
    """They end with one checkpoint, whose validation by one process is what the two logged."""
    prepare(tmp_path, CONFIG)
    make_quickstart(tmp_path / "data", QuickstartSettings(96, 35, 20))
    text = (tmp_path / "config.yaml").read_text().replace("val_samples: 40", "val_samples: 35")
    (tmp_path / "config.yaml").write_text(text)
    config = ["--config", str(tmp_path / "config.yaml"), "--trainer.max_epochs", "1"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "8"]
    command = [str(ROOT / "train.py"), "fit", *config, *two]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = run_ranks(command, environment, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    alone = ["--trainer.default_root_dir", str(tmp_path / "alone"), "--ckpt_path", str(last)]
    assert main(["validate", *config, *alone], "train.py") == 0
    scores = []
    for name in ("run", "alone"):
        log = EventAccumulator(str(tmp_path / name / "tensorboard"))
        log.Reload()
        scores.append(
            {
                tag: log.Scalars(tag)[-1].value
                for tag in log.Tags()["scalars"]
                if tag.startswith("val/")
            }
        )
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)

"""Amortised InputIBA: what the generator predicts, what its training does to it, and what must not
matter.
"""

import io
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader
from training_toys import prepare
from warm import run_ranks

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule
from lit_iba.export import export_checkpoint, load_exported
from lit_iba.input_iba.amortised import AmortisedInputIBA
from lit_iba.input_iba.amortised_training import InputIBATraining
from lit_iba.input_iba.critic import directions

ROOT = Path(__file__).parents[2]
QUICK = {
    "feature_steps": 2,
    "feature_copies": 2,
    "samples": 2,
    "critic_steps": 2,
    "steps": 4,
    "copies": 2,
}
CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.input_iba.InputIBATraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    layer: layer2
    taps: [layer2, fc]
    widths: [4, 6]
    critic_width: 4
    start_batches: 2
    settings: {{feature_steps: 2, feature_copies: 2, samples: 2, critic_steps: 2, steps: 4,
        copies: 2}}
    statistics_images: 32
    optimizer: {{class_path: torch.optim.RMSprop, init_args: {{lr: 0.001}}}}
    critic_optimizer: {{class_path: torch.optim.RMSprop, init_args: {{lr: 0.001}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 32, val_samples: 12, test_samples: 10,
      batch_size: 8}}
trainer: {{default_root_dir: {root}, max_epochs: 2, log_every_n_steps: 1, accelerator: cpu,
    enable_model_summary: false}}
resume: {{every_n_steps: 3}}
"""


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


def own_classifier(folder: Path) -> FrozenClassifier:
    return FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))


def module_of(folder: Path, **changes: Any) -> InputIBATraining:
    """A module with statistics."""
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "layer": "layer2",
        "taps": ["layer2", "fc"],
        "widths": [4, 6],
        "critic_width": 4,
        "start_batches": 0,
        "settings": QUICK,
        **changes,
    }
    module = InputIBATraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")}, **given
    )
    module.measure(iter(pictures(64, seed=5).split(16)))
    return module


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def little_batch(folder: Path) -> dict[str, Any]:
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=32, val_samples=12, test_samples=10, batch_size=8
    )
    data.setup("fit")
    return next(iter(data.train_dataloader()))  # type: ignore[no-any-return]


def fit(module: InputIBATraining, batches: list[Any], folder: Path) -> None:
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def test_terms_and_drawings_are_logged(run: Path) -> None:
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    logged = {tag: [e.value for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    for name in ("critic_gap", "generator_loss", "lambda_g", "start_gap"):
        assert len(logged[f"train/{name}"]) == 8, name
    assert len(logged["val/loss"]) == 2
    assert logged["val/start"][0] == logged["val/start"][1] > 0, (
        "the same draws at every validation"
    )
    assert logged["train/generator_loss"][:2] == logged["train/start_gap"][:2], (
        "the first batches learn the start"
    )
    assert logged["train/generator_loss"][2] != logged["train/start_gap"][2]
    drawn = Image.open(io.BytesIO(log.Images("val/heatmaps")[0].encoded_image_string))
    assert drawn.size == (
        4 * 66 + 2,
        8 * 66 + 2,
    )  # picture, overlay, bits, lambda_G; two pixels between


def test_a_checkpoint_holds_generator_and_critic_alone(folder: Path, last: Path) -> None:
    checkpoint = torch.load(last, weights_only=True)
    assert {name.partition(".")[0] for name in checkpoint["state_dict"]} == {"generator", "critic"}
    assert checkpoint["global_step"] == 2 * 4 * 3
    assert int(checkpoint["state_dict"]["generator.input_statistics.count"]) == 32
    assert (
        max(
            float(v.abs().max())
            for k, v in checkpoint["state_dict"].items()
            if k.startswith("critic.")
        )
        <= 0.01
    )
    images = pictures(2)
    for output in ("bits", "prior_bits"):
        settings = {"checkpoint": str(last), "output": output}
        found = build_explainer("amortised_input_iba", own_classifier(folder), settings).attribute(
            images, 1
        )
        assert torch.equal(
            found.values, AmortisedInputIBA.load(last, output=output).attribute(images, 1).values
        )
        assert found.unit == "bits"
        assert float(found.values.min()) >= 0


class SignalAt(L.Callback):
    """Sends this process SIGTERM before it trains a batch, counted over all epochs."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folder: Path, last: Path) -> None:
    """Stopped by a signal within the first epoch, and within the second."""
    expected, before = torch.load(last, weights_only=True), signal.getsignal(signal.SIGTERM)
    for batch in (2, 7):
        half = folder / f"half_{batch}"
        config = [
            "fit",
            "--config",
            str(folder / "config.yaml"),
            "--trainer.default_root_dir",
            str(half),
        ]
        stop = [
            "--trainer.callbacks",
            json.dumps([{"class_path": f"{__name__}.SignalAt", "init_args": {"batch": batch}}]),
        ]
        try:
            assert main([*config, *stop], "train.py") == 75
        finally:
            signal.signal(signal.SIGTERM, before)
        assert (
            torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
            == 3 * batch
        )
        assert main([*config, "--ckpt_path", "last"], "train.py") == 0
        signal.signal(signal.SIGTERM, before)
        found = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
        assert found["global_step"] == expected["global_step"]
        for name, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][name], value), name


@pytest.mark.slow
def test_export_gives_the_map_of_one_pass(last: Path, tmp_path: Path) -> None:
    report = export_checkpoint(last, tmp_path / "out")
    assert max(error for errors in report.errors.values() for error in errors.values()) < 1e-4
    images, loaded = pictures(3), load_exported(tmp_path / "out")
    expected = AmortisedInputIBA.load(last, output="prior_bits")
    with torch.no_grad():
        assert torch.equal(loaded.prior_bits(images), expected.prior_bits(images))
    stage_c = AmortisedInputIBA.load(last).attribute(images, 2)
    assert torch.equal(loaded.attribute(images, 2).values, stage_c.values)


@pytest.mark.parametrize("output", ["bits", "prior_bits"])
def test_a_heatmap_does_not_depend_on_its_batch(last: Path, output: str) -> None:
    explainer, images, targets = (
        AmortisedInputIBA.load(last, output=output),
        pictures(5),
        torch.arange(5),
    )
    before = images.clone()
    whole = explainer.attribute(images, targets).values
    parts = [explainer.attribute(images[i : i + 2], targets[i : i + 2]).values for i in (0, 2, 4)]
    difference = (torch.cat(parts) - whole).abs() / whole.abs().amax(dim=(1, 2), keepdim=True)
    # Adam's step for an element without gradient has the sign of a rounding error.
    assert float((difference > 1e-3).float().mean()) < (0.02 if output == "bits" else 1e-9)
    assert torch.equal(images, before)
    small = (
        AmortisedInputIBA.load(last, output=output, forward_batch_size=1)
        .attribute(images, targets)
        .values
    )
    assert float(((small - whole).abs() > 1e-3 * whole.abs().max()).float().mean()) < 0.02
    other = explainer.attribute(
        images[:, :, :45, :50], targets
    ).values  # another size than in training, and odd
    assert other.shape == (5, 45, 50)


def test_prior_bits_are_the_divergence_of_two_gaussians(folder: Path) -> None:
    explainer, images = module_of(folder).explainer, pictures(2)
    with torch.no_grad():
        explainer.generator.write.weight.mul_(8)
        explainer.generator.noise.weight.normal_(std=0.2)
        prior = explainer.prior(images)
        keep, mean, std = (
            torch.sigmoid(prior.logits).double(),
            prior.mean.double(),
            prior.std.double(),
        )
        passed = Normal(keep * images + (1 - keep) * mean, (1 - keep) * std)
        nats = kl_divergence(passed, Normal(mean.expand_as(keep), std.expand_as(keep))).sum(dim=1)
        found = explainer.prior_bits(images)
    assert 0.1 < float(keep.min()) < float(keep.max()) < 0.9
    assert torch.allclose(found.double(), nats / torch.log(torch.tensor(2.0)).double(), rtol=1e-4)


def test_stage_c_asks_for_nothing_that_the_prior_gives(folder: Path) -> None:
    """lambda_G = 1 everywhere leaves nothing to add, and the more it lets through, the less is
    added.
    """
    explainer, images, totals = module_of(folder).explainer, pictures(2), []
    explainer.output = "bits"
    for logit in (-20.0, 0.0, 20.0):
        with torch.no_grad():
            explainer.generator.write.weight.zero_()
            explainer.generator.write.bias.fill_(logit)
        totals.append(explainer.attribute(images, 1).total)
    assert (totals[0] > totals[1]).all()
    assert (totals[1] > 100 * totals[2]).all()


def test_a_direction_is_that_of_the_other_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    fakes, mean = (
        torch.randn(3, 2, 4, 5, 6, generator=generator),
        torch.randn(2, 4, 5, 6, generator=generator),
    )
    found = directions(fakes, mean)
    for s in range(3):
        for b in range(2):
            others = torch.stack([fakes[o, b] for o in range(3) if o != s]).mean(dim=0)
            expected = (mean[b] - others) / (mean[b] - others).norm()
            assert torch.allclose(found[s, b], expected, atol=1e-6)


def test_the_distance_is_that_of_means_and_deviations(folder: Path) -> None:
    """Of draws that are made again here, element by element; and that of no image depends on the
    others.
    """
    module, batch = (
        module_of(folder, settings=QUICK | {"samples": 3, "neighbourhood": 0.0}),
        little_batch(folder),
    )
    seen = module._restrict(batch, 0)
    with torch.no_grad():
        prior = module.explainer.prior(seen.images)
        states = [g.get_state() for g in seen.generators]
        found = module.distance(seen, prior)
        noise = module.explainer.input_iba.feature_iba.noise
        for i, (generator, state) in enumerate(zip(seen.generators, states, strict=True)):
            unit = torch.randn(3, 3, 64, 64, generator=generator.set_state(state))
            keep = torch.sigmoid(prior.logits[i])
            z = keep * seen.images[i] + (1 - keep) * (prior.mean[i] + prior.std[i] * unit)
            features = (module.classifier.split("layer2").head(z)[0] - noise.mean) / noise.std
            masked = seen.latent.masked
            wanted = masked.keep[i] * (masked.r[i] - noise.mean) / noise.std
            squares = (features.mean(dim=0) - wanted) ** 2 + (
                features.std(dim=0) - masked.drop[i]
            ) ** 2
            assert float(found[i]) == pytest.approx(
                float(squares[noise.active > 0].mean().sqrt()), rel=1e-3
            )
        half = {
            "picture": batch["picture"][5:],
            "label": batch["label"][5:],
            "key": batch["key"][5:],
        }
        alone = module._restrict(half, 0)
        assert torch.allclose(
            module.distance(alone, module.explainer.prior(alone.images)), found[5:], rtol=1e-5
        )


@pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`"
)  # a step is all that is looked at
@pytest.mark.filterwarnings(
    "ignore:Found .* in eval mode"
)  # the classifier is frozen on purpose; the CLI says nothing
def test_undecodable_samples_change_nothing_and_the_classifier_stays(
    folder: Path, tmp_path: Path
) -> None:
    batch = little_batch(folder)
    batch["weight"][3] = 0
    ends = []
    for darker in (False, True):
        module = module_of(folder, settings=QUICK | {"lipschitz": "gradient_penalty"})
        begin = {name: value.clone() for name, value in module.state_dict().items()}
        before = {
            name: value.clone() for name, value in module.classifier.model.state_dict().items()
        }
        if darker:
            batch["picture"][3] = 255 - batch["picture"][3]
        fit(module, [batch], tmp_path)
        assert all(
            torch.equal(v, before[name]) for name, v in module.classifier.model.state_dict().items()
        )
        assert not any(
            p.requires_grad or p.grad is not None for p in module.classifier.parameters()
        )
        assert all(p.requires_grad for p in module.critic.parameters())
        ends.append(module.state_dict())
        moved = {name for name, value in ends[-1].items() if not torch.equal(value, begin[name])}
        trained = {
            name for name, _ in module.named_parameters() if not name.startswith("classifier.")
        }
        assert moved == trained
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="was made with small_cnn"):
        AmortisedInputIBA.load(last, FrozenClassifier(SmallCNN().requires_grad_(False)))
    with pytest.raises(InputError, match="needs a checkpoint"):
        build_explainer("amortised_input_iba", FrozenClassifier("small_cnn", "random"))
    with pytest.raises(
        InputError, match="output is 'bit'; it must be one of 'bits', 'smoothed_lambda'"
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

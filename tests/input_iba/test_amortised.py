"""Amortised InputIBA: what the generator predicts, what its training does to it, and what must not
matter.
"""

import io
import json
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from amortised_toys import CONFIG, QUICK, little_batch, module_of, own_classifier, pictures
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader
from training_toys import prepare

from lit_iba import build_explainer
from lit_iba.cli.main import main
from lit_iba.export import export_checkpoint, load_exported
from lit_iba.input_iba.amortised import AmortisedInputIBA
from lit_iba.input_iba.amortised_training import InputIBATraining
from lit_iba.input_iba.critic import directions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("amortised"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run: two epochs of four batches, three steps per batch."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


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


@pytest.mark.slow
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


@pytest.mark.slow
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

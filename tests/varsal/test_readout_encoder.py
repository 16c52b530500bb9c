"""The readout encoder reads the classifier it is put on, finds what that one looks at, and costs no
pass of its own.
"""

import logging
from pathlib import Path

import lightning as L
import pytest
import torch
from coloured_toys import PREPROCESSING, coloured_patches
from export_toys import Untraceable, tiny_transformer
from torch import nn

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.export import export_checkpoint, load_exported
from lit_iba.metrics.bounding_box import share_inside
from lit_iba.metrics.judged import Subject
from lit_iba.metrics.low_k_perturbation import LowKPerturbation
from lit_iba.metrics.sanity_check import SanityCheck
from lit_iba.perturbation import gaussian_blur
from lit_iba.training.taps import check_taps
from lit_iba.varsal.explainer import VarSal
from lit_iba.varsal.readout_encoder import ReadoutEncoder
from lit_iba.varsal.varsal_training import VarSalTraining

IMAGES = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOY = {"model": "coloured_toys:colour_cnn", "weights": "random", "preprocessing": PREPROCESSING}


def write_checkpoint(path: Path, **settings: object) -> Path:
    """A readout encoder as training leaves it, with statistics in its batch norms."""
    torch.manual_seed(0)
    training = VarSalTraining(
        {"model": "small_cnn", "weights": "random"}, encoder="readout", width=8, **settings
    ).train()
    with torch.no_grad():
        for _ in range(40):
            training.encoder(IMAGES, training.explainer.features(IMAGES))
    if training.average is not None:
        training.average.update_parameters(training.encoder)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(training)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return FrozenClassifier("small_cnn", "random")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("readout") / "best.ckpt")


def small(model: str, side: int = 64) -> FrozenClassifier:
    return FrozenClassifier(model, "random", preprocessing={"resize": side, "crop": side})


def test_the_taps_of_a_resnet_are_its_stages() -> None:
    taps = check_taps(small("resnet50"), None)
    assert taps == {"relu": 64, "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
    assert list(check_taps(small("resnet18"), ["layer3", "fc", "layer1"])) == [
        "layer1",
        "layer3",
        "fc",
    ]  # finest first


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("vit", {"encoder": 16}),  # tokens, one resolution
        ("swin", {"features.1": 16, "permute": 32}),  # channels last
        ("untraceable", {"net.layer1.0": 16, "net.layer2": 64, "net.layer3": 96}),  # cut with hooks
    ],
)
def test_taps_are_found_in_any_network(
    kind: str, expected: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    side = {"vit": 32, "swin": 64, "untraceable": 64}[kind]
    network = Untraceable() if kind == "untraceable" else tiny_transformer(kind)[0]
    explainer = VarSal(
        FrozenClassifier(network, preprocessing={"resize": side, "crop": side}),
        encoder="readout",
        width=8,
    )
    assert {
        name: taps.shape[1] for name, taps in explainer.features(IMAGES[:, :, :side, :side]).items()
    } == expected
    images = IMAGES[:, :, :side, :side]
    whole, part = explainer.attribute(images), explainer.attribute(images[3:])
    assert whole.values.shape == (5, side, side)
    assert torch.allclose(whole[3:].values, part.values, atol=1e-5)
    logits, features = explainer.observe(images)
    assert torch.allclose(logits, explainer.classifier(images), atol=1e-5)
    alone = explainer.features(images)
    assert all(torch.allclose(features[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)


def test_the_encoder_is_the_one_that_was_measured() -> None:
    """The form of the experiment: 80 thousand parameters for ResNet-18, no affine part in the taps'
    batch norms.
    """
    encoder = ReadoutEncoder(
        {"relu": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    )
    assert sum(p.numel() for p in encoder.parameters()) == 77658
    assert not any(True for scale in encoder.scale for _ in scale.parameters())
    encoder.start_near(0.5)
    with torch.no_grad():
        encoder.out.weight.zero_()
        sizes = [
            (64, 28),
            (64, 14),
            (128, 7),
            (256, 4),
            (512, 2),
        ]  # odd ones, as of 56-pixel images
        taps = {
            name: torch.randn(2, c, s, s) for name, (c, s) in zip(encoder.taps, sizes, strict=True)
        }
        mean, log_variance = encoder(IMAGES[:2, :, :56, :56], taps)
        assert mean.shape == log_variance.shape == (2, 56, 56)
        assert torch.allclose((0.5 * log_variance).exp(), torch.tensor(0.5))
        encoder.out.bias[1] = 1e9
        assert encoder(IMAGES[:2, :, :56, :56], taps)[1].max() <= 10


def test_a_tap_behind_the_pooling_reaches_every_pixel(classifier: FrozenClassifier) -> None:
    torch.manual_seed(0)
    explainer = VarSal(classifier, encoder="readout", taps=["layer1", "fc"], width=8)
    assert explainer.taps == ("layer1", "fc")
    with torch.no_grad():
        features = explainer.features(IMAGES)
        before, _ = explainer.posterior(IMAGES, features)
        after, _ = explainer.posterior(IMAGES, features | {"fc": features["fc"] + 10})
    assert (before != after).float().mean() > 0.9


@pytest.mark.parametrize("shown", ["mean", "sampled"])
def test_a_heatmap_depends_neither_on_the_batch_nor_on_the_target(
    classifier: FrozenClassifier, checkpoint: Path, shown: str
) -> None:
    explainer = build_explainer("varsal", classifier, {"checkpoint": str(checkpoint), "map": shown})
    whole = explainer.attribute(IMAGES, keys=list("abcde"))
    part = explainer.attribute(IMAGES[3:], target=7, keys=list("de"))
    assert torch.allclose(whole[3:].values, part.values, atol=1e-5)
    assert torch.allclose(whole[3:].uncertainty, part.uncertainty, atol=1e-5)
    assert explainer.taps == ("layer1.0", "layer2", "layer3")


def test_a_step_takes_two_passes_of_the_classifier_and_no_gradient_of_its_weights() -> None:
    module = VarSalTraining(
        {"model": "small_cnn", "weights": "random"}, encoder="readout", width=8
    ).train()
    seen: list[int] = []
    model = module.classifier.model
    assert isinstance(model.layer3[2][0], nn.Conv2d)
    model.layer3[2][0].register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    _, terms = module._terms(IMAGES, list("abcde"))
    assert seen == [5, 5], (
        "the image's own pass, whose features the encoder reads, and the perturbed image's"
    )
    terms["loss"].mean().backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in module.encoder.parameters()
    )
    assert not any(p.requires_grad or p.grad is not None for p in module.classifier.parameters())
    assert not any(m.training for m in module.classifier.modules())


def test_the_pass_of_a_step_gives_the_features_of_an_explanation(
    classifier: FrozenClassifier,
) -> None:
    """Folded batch norms and packed convolutions change rounding only."""
    explainer = VarSal(classifier, encoder="readout", width=8)
    logits, features = explainer.observe(IMAGES)
    assert torch.allclose(logits, classifier(IMAGES), rtol=1e-4, atol=1e-5)
    expected = explainer.features(IMAGES)
    assert list(features) == list(expected) == ["layer1.0", "layer2", "layer3"]
    for name, values in expected.items():
        assert torch.allclose(features[name], values, rtol=1e-3, atol=1e-4), name
        assert not features[name].requires_grad
    with (
        torch.no_grad()
    ):  # a classifier whose weights change is folded again, here as for its logits
        classifier.model.layer2[0][0].weight.mul_(2)
    changed = explainer.observe(IMAGES)[1]
    try:
        assert torch.equal(changed["layer1.0"], features["layer1.0"])
        assert not torch.allclose(changed["layer2"], features["layer2"], rtol=1e-2)
    finally:
        with torch.no_grad():
            classifier.model.layer2[0][0].weight.div_(2)


def test_the_sanity_check_puts_one_encoder_on_every_randomised_classifier(
    classifier: FrozenClassifier, checkpoint: Path
) -> None:
    settings = {"checkpoint": str(checkpoint)}
    explainer = build_explainer("varsal", classifier, settings)
    maps, targets = explainer.attribute(IMAGES).values, torch.zeros(5, dtype=torch.int64)
    metric = SanityCheck(layers=["fc", "layer3", "layer1"])
    metric.update(
        classifier, IMAGES, targets, maps, subject=Subject.named(explainer, "varsal", settings)
    )
    intact, behind, deep, all_layers = metric.compute().curves["ssim"]["y"]
    assert intact == behind == pytest.approx(1), "no tap lies behind the last layer"
    assert all_layers < deep < 1 - 1e-5
    with pytest.raises(InputError, match="was made with small_cnn"):
        VarSal.load(
            checkpoint,
            FrozenClassifier(
                torch.nn.Sequential(classifier.model, nn.Identity(), nn.Linear(10, 10))
            ),
        )


def test_what_does_not_fit_is_refused(classifier: FrozenClassifier) -> None:
    with pytest.raises(InputError, match="encoder is 'read'; it must be one of 'paper', 'readout'"):
        VarSal(classifier, encoder="read")
    with pytest.raises(InputError, match="the paper's encoder reads none"):
        VarSal(classifier, taps=["layer1"])
    with pytest.raises(InputError, match="'layer9' is not a known layer"):
        VarSal(classifier, encoder="readout", taps=["layer9"])
    with pytest.raises(InputError, match="name one or more different layers"):
        VarSal(classifier, encoder="readout", taps=["layer1", "layer1"])
    with pytest.raises(InputError, match="has positions"):
        VarSal(classifier, encoder="readout", taps=["fc"])
    with pytest.raises(InputError, match="width"):
        VarSal(classifier, encoder="readout", width=3)


def test_a_trained_map_beats_a_constant_and_the_brightness() -> None:
    """On a classifier that is blind to grey, in pictures whose brightest patch is grey: ten seconds
    on one core.
    """
    torch.manual_seed(0)
    module = VarSalTraining(
        TOY,
        encoder="readout",
        width=16,
        initial_deviation=0.5,
        temperature=0.2,
        k="stratified",
        ema_decay=0.9,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.9, 0.99)),
    ).train()
    assert module.average is not None
    optimizer = module.configure_optimizers()
    for step in range(60):
        images, _ = coloured_patches(16, seed=step)
        uniform = module._stratified(16, step, images.device)
        _, terms = module._terms(images, [f"{step}/{i}" for i in range(16)], uniform)
        optimizer.zero_grad()
        terms["loss"].mean().backward()
        optimizer.step()
        module.average.update_parameters(module.encoder)
    images, patches = coloured_patches(40, seed=10**6)
    blurred = gaussian_blur(images.abs().sum(dim=1, keepdim=True), 2.0, "reflect")[:, 0]
    maps = {
        "varsal": module.explainer.attribute(images, 0).values,
        "brightness": blurred,
        "constant": 0 * blurred,
    }
    low_k, targets = LowKPerturbation([10, 30, 50, 70, 90]), torch.zeros(40, dtype=torch.int64)
    kl, box = {}, {}
    for name, values in maps.items():
        kl[name] = float(low_k.judge(module.classifier, images, targets, values)["kl"].mean())
        box[name] = float(share_inside(values, patches).mean())
    assert box["varsal"] > max(0.7, 2 * box["brightness"], 2 * box["constant"]), box
    assert kl["varsal"] < 0.5 * min(kl["brightness"], kl["constant"]), kl


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_an_export_holds_the_layers_that_are_read(
    classifier: FrozenClassifier, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "best.ckpt", ema_decay=0.9)
    report = export_checkpoint(path, tmp_path / "out", progress=False)
    assert max(error for errors in report.errors.values() for error in errors.values()) < 1e-4
    explainer = VarSal.load(path, classifier)
    expected = explainer.posterior(IMAGES)
    program = torch.export.load(report.folder / "explainer.pt2")
    for found, wanted in zip(program.module()(IMAGES), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    held = set(program.state_dict)
    assert any(name.startswith("classifier.layer3") for name in held)
    assert not any("fc" in name for name in held), "nothing behind the last tap"
    loaded = load_exported(report.folder)
    assert loaded.taps == explainer.taps
    assert torch.equal(loaded.attribute(IMAGES).values, expected[0])


def test_mirrored_maps_prefer_no_side(classifier: FrozenClassifier) -> None:
    images, _ = coloured_patches(3, seed=1)
    plain = VarSal(classifier, encoder="readout", width=8)
    mirrored = VarSal.from_record(classifier, plain.record | {"mirror": True})
    mirrored.encoder.load_state_dict(plain.encoder.state_dict())
    with torch.no_grad():
        for part, turned in zip(
            mirrored.posterior(images), mirrored.posterior(images.flip(-1)), strict=True
        ):
            torch.testing.assert_close(part, turned.flip(-1))
        mean, _ = plain.posterior(images)
        assert (mean - plain.posterior(images.flip(-1))[0].flip(-1)).abs().max() > 1e-3
        both = (mean + plain.posterior(images.flip(-1))[0].flip(-1)) / 2
    torch.testing.assert_close(mirrored.attribute(images).values, both)
    assert mirrored.record["mirror"]

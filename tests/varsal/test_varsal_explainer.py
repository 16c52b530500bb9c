"""VarSal's heatmaps come with their uncertainty, do not depend on the batch, and follow their
classifier's checkpoint.
"""

from pathlib import Path

import lightning as L
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.cli.main import main
from lit_iba.export import export_checkpoint, load_exported
from lit_iba.heatmap import Heatmap
from lit_iba.metrics.judged import Subject
from lit_iba.metrics.sanity_check import SanityCheck
from lit_iba.varsal.encoder import VarSalEncoder
from lit_iba.varsal.explainer import VarSal
from lit_iba.varsal.varsal_training import VarSalTraining

IMAGES = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return FrozenClassifier("small_cnn", "random")


def write_checkpoint(path: Path, weights: str, seed: int = 0) -> Path:
    """An encoder as training leaves it, with statistics in its batch norms."""
    torch.manual_seed(seed)
    training = VarSalTraining({"model": "small_cnn", "weights": weights}, channels=[6, 4]).train()
    training.encoder(IMAGES)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(training)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("varsal") / "best.ckpt", "random")


@pytest.mark.parametrize("shown", ["mean", "sampled"])
def test_a_heatmap_depends_neither_on_the_batch_nor_on_the_target(
    classifier: FrozenClassifier, checkpoint: Path, shown: str
) -> None:
    explainer = build_explainer("varsal", classifier, {"checkpoint": str(checkpoint), "map": shown})
    whole, keys = explainer.attribute(IMAGES, keys=list("abcde")), list("de")
    part = explainer.attribute(IMAGES[3:], target=7, keys=keys)
    assert torch.allclose(whole[3:].values, part.values, atol=1e-5)
    assert torch.allclose(whole[3:].uncertainty, part.uncertainty, atol=1e-5)
    assert whole.signed
    assert part.uncertainty.min() > 0


def test_training_mode_changes_no_heatmap_and_is_left_as_it_was(
    classifier: FrozenClassifier, checkpoint: Path
) -> None:
    explainer = VarSal.load(checkpoint, classifier)
    expected, before = explainer.attribute(IMAGES).values, explainer.encoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    explainer.encoder.train()
    assert torch.equal(explainer.attribute(IMAGES).values, expected)
    assert explainer.encoder.training
    assert all(
        torch.equal(value, before[name]) for name, value in explainer.encoder.state_dict().items()
    )


def test_samples_follow_the_posterior(classifier: FrozenClassifier, checkpoint: Path) -> None:
    explainer = VarSal.load(checkpoint, classifier, seed=4)
    samples = explainer.samples(IMAGES[:2], 400, keys=["a", "b"])
    mean, deviation = explainer.posterior(IMAGES[:2])
    assert samples.shape == (2, 400, 64, 64)
    standard = (samples - mean[:, None]) / deviation[:, None]
    assert abs(float(standard.mean())) < 0.01
    assert abs(float(standard.std()) - 1) < 0.01
    assert float(standard.mean(dim=1).abs().max()) < 6 / 20  # every pixel for itself
    assert abs(float((standard[:, :, 1:] * standard[:, :, :-1]).mean())) < 0.01, (
        "pixels are independent"
    )
    shown = VarSal.load(checkpoint, classifier, seed=4, map="sampled").attribute(
        IMAGES[:2], keys=["a", "b"]
    )
    assert torch.equal(shown.values, samples[:, 0])


def test_the_encoder_is_the_papers() -> None:
    encoder = VarSalEncoder()
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64] * 4 + [32] * 5 + [16] * 6 + [2]
    assert {(m.kernel_size, m.stride, m.padding) for m in convolutions} == {
        ((3, 3), (1, 1), (1, 1))
    }
    small = VarSalEncoder([4])
    small.start_near(0.1)
    with torch.no_grad():
        small.layers[-1].weight.zero_()
        mean, log_variance = small(IMAGES[:, :, :30, :20])
        assert mean.shape == log_variance.shape == (5, 30, 20)
        assert torch.allclose((0.5 * log_variance).exp(), torch.tensor(0.1))
        small.layers[-1].bias[1] = 1e9
        assert small(IMAGES)[1].max() <= 10


def test_uncertainty_goes_where_the_heatmap_goes() -> None:
    heatmap = Heatmap(torch.rand(3, 8, 8), uncertainty=torch.rand(3, 8, 8))
    assert torch.equal(heatmap[1].uncertainty, heatmap.uncertainty[1:2])
    large = heatmap.resize((16, 16))
    assert large.uncertainty.shape == (3, 16, 16)
    assert torch.allclose(large.uncertainty.sum(dim=(1, 2)), heatmap.uncertainty.sum(dim=(1, 2)))
    assert torch.equal(heatmap.deviation().values, heatmap.uncertainty)
    assert Heatmap(torch.rand(1, 8, 8)).deviation() is None


def test_explain_writes_the_deviation_beside_the_map(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    command = [
        "explain",
        str(tmp_path / "a.png"),
        "--explainer",
        "varsal",
        "--settings.checkpoint",
        str(checkpoint),
    ]
    assert main([*command, "--out", str(tmp_path / "out"), "--device", "cpu"], "evaluate.py") == 0
    ends = ("png", "overlay.png", "photograph.jpg", "npy", "deviation.png", "deviation.npy")
    assert {path.name for path in (tmp_path / "out").glob("a.*")} == {
        f"a.varsal.{end}" for end in ends
    }
    assert np.load(tmp_path / "out" / "a.varsal.deviation.npy").min() > 0
    assert np.load(tmp_path / "out" / "a.varsal.npy").min() < 0


def test_sanity_check_wants_an_encoder_for_each_randomised_classifier(
    classifier: FrozenClassifier, checkpoint: Path, tmp_path: Path
) -> None:
    """One that was trained for the intact classifier would score 1, whatever the classifier is."""

    def check(paths: str | list[str]) -> list[float]:
        settings = {"checkpoint": paths}
        explainer = build_explainer("varsal", classifier, settings)
        maps = explainer.attribute(IMAGES).values
        metric = SanityCheck(layers=["fc", "layer3"])
        targets = torch.zeros(5, dtype=torch.int64)
        metric.update(
            classifier, IMAGES, targets, maps, subject=Subject.named(explainer, "varsal", settings)
        )
        return metric.compute().curves["ssim"]["y"]

    with pytest.raises(InputError, match="was trained for the intact small_cnn"):
        check(str(checkpoint))
    paths = [str(checkpoint)]
    for layers in (1, 3):
        weights = str(tmp_path / f"random_{layers}.safetensors")
        record = '{"model": "small_cnn", "weights": "random"}'
        assert main(["randomize", weights, "--classifier", record, "--layers", str(layers)]) == 0
        with pytest.raises(InputError, match=r"none of .* was trained for these weights"):
            check(paths)
        paths.append(str(write_checkpoint(tmp_path / f"{layers}.ckpt", weights, seed=layers)))
    # Point 0 is the intact network, which nothing random is in.
    intact, *randomised = check(paths)
    assert max(randomised) < 0.99 < intact


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_exports_give_mean_and_deviation(
    classifier: FrozenClassifier, checkpoint: Path, tmp_path: Path
) -> None:
    report = export_checkpoint(checkpoint, tmp_path / "out", progress=False)
    assert max(error for errors in report.errors.values() for error in errors.values()) < 1e-5
    assert [output["name"] for output in report.description["outputs"]] == ["heatmap", "deviation"]
    expected = VarSal.load(checkpoint, classifier).posterior(IMAGES)
    session = onnxruntime.InferenceSession(
        report.folder / "explainer.onnx", providers=["CPUExecutionProvider"]
    )
    found = session.run(["heatmap", "deviation"], {"images": IMAGES.numpy()})
    program = torch.export.load(report.folder / "explainer.pt2").module()(IMAGES)
    loaded = load_exported(report.folder).attribute(IMAGES)
    for onnx, pt2, again, wanted in zip(
        found, program, (loaded.values, loaded.uncertainty), expected, strict=True
    ):
        assert torch.allclose(torch.from_numpy(onnx), wanted, rtol=1e-4, atol=1e-5)
        assert torch.allclose(pt2, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(again, wanted)
    assert "heatmap, deviation = program(" in (report.folder / "README.md").read_text()

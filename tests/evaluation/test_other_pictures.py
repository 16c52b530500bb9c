"""Pictures that are wider than high and have one, two, four or twelve channels, from files to
reports, trained readouts and exports.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_toys import SIZE, STORED, by_name, encoded, make_pictures, picture
from PIL import Image
from torch import nn

from lit_iba import Benchmark, FrozenClassifier, InputError, Preprocessing
from lit_iba.baselines import MaskingTraining, PatchStatistics
from lit_iba.classifier.photograph import Photograph
from lit_iba.cli.main import main
from lit_iba.evaluation.roar_pictures import colours_of
from lit_iba.evaluation.roar_training import Pictures, Recipe, hits, retrain
from lit_iba.explainer import build_explainer
from lit_iba.iba import ReadoutIBA
from lit_iba.input_iba import InputIBATraining
from lit_iba.report.gallery import read_gallery
from lit_iba.varsal import VarSalTraining
from lit_iba.varsal.corruptions import STRENGTHS, corrupt

TRAIN = """
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args:
    classifier: {classifier}
    layer: see
    taps: [see, find]
    readout: {{hidden: [4, 4]}}
    statistics_images: 8
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.01}}}}
data:
  class_path: lit_iba.data.ShardDataModule
  init_args: {{train: {data}, val: {data}, batch_size: 4, augment: true}}
trainer:
  default_root_dir: {root}
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
  - class_path: lit_iba.evaluation.EvaluationMetrics
    init_args: {{metrics: {{bounding_box: {{}}, degradation: {{tile: 8, points: 3}}}}, images: 4}}
"""


def classifier_arguments(channels: int) -> list[str]:
    """Of a command."""
    made = by_name(channels)
    return [
        *("--classifier.model", made["model"], "--classifier.weights", made["weights"]),
        *("--classifier.preprocessing", json.dumps(made["preprocessing"])),
    ]


@pytest.mark.parametrize("channels", [1, 12])
def test_a_benchmark_finds_the_object(channels: int, tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", channels, 8)
    Benchmark(
        FrozenClassifier(**by_name(channels)),
        data,
        {"per_sample_iba": {"layer": "find", "steps": 10}, "grad_cam": {}, "random": {}},
        {
            "bounding_box": {},
            "degradation": {"tile": 8, "points": 3},
            "sensitivity_n": {"tile": 4, "points": 2, "masks": 5},
            "insertion": {"pixels_per_step": 128},
        },
        tmp_path / "run",
        max_box_fraction=0.5,  # those with an object
        batch_size=3,
        statistics_data=data,
        statistics_images=8,
        gallery=2,
        panels=1,
    ).run()
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    found = {name: row["score"] for name, row in results["bounding_box"].items()}
    assert found["per_sample_iba"] > 0.6 > 0.2 > found["random"]
    assert found["grad_cam"] > 0.6
    gallery = read_gallery(tmp_path / "run" / "gallery.safetensors")
    assert gallery is not None
    assert len(gallery.pictures) >= 2
    assert gallery.pictures.shape[1:] == (3, *SIZE)  # as people can see them
    if channels == 1:
        assert main(["report", str(tmp_path / "run")], "evaluate.py") == 0


@pytest.mark.parametrize("channels", [2, 12])
def test_a_command_draws_the_picture_at_its_own_size(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, box = picture(1, channels)
    assert box is not None
    extension, data = encoded(pixels)
    path = tmp_path / f"sample.{extension}"
    path.write_bytes(data)
    out = tmp_path / "out"
    command = ["explain", str(path), *classifier_arguments(channels), "--out", str(out)]
    methods = ["--explainer", "per_sample_iba,saliency", "--settings.per_sample_iba.steps=5"]
    assert main([*command, *methods], "evaluate.py") == 0
    classifier = FrozenClassifier(**by_name(channels))
    images = classifier.images(
        classifier.preprocessing.picture(Photograph.of(pixels, channels))[None]
    )
    values = build_explainer("saliency", classifier).attribute(images).values[0]
    assert np.allclose(np.load(out / "sample.saliency.npy"), values, rtol=1e-4, atol=1e-6)
    for name, (height, width) in (("png", SIZE), ("overlay.png", SIZE), ("photograph.jpg", STORED)):
        with Image.open(out / f"sample.saliency.{name}") as drawn:
            assert drawn.size == (width, height)
        with Image.open(out / f"sample.per_sample_iba.{name}") as drawn:
            assert drawn.height == height
            assert drawn.width > width  # with its scale of bits
    with Image.open(out / "sample.per_sample_iba.photograph.jpg") as drawn:
        colours = np.asarray(drawn.convert("RGB"))[:, : STORED[1]].astype(int)
    coloured = colours.max(axis=2) - colours.min(axis=2)
    left, top, right, bottom = box
    assert coloured[top:bottom, left:right].mean() > 2 * coloured.mean()
    assert "data:image/jpeg" in (out / "explanations.html").read_text()
    Image.new("RGB", (50, 40)).save(tmp_path / "photograph.png")
    capsys.readouterr()
    command[1] = str(tmp_path / "photograph.png")
    assert main(command, "evaluate.py") == 2
    assert f"has 3 channels (RGB), but the classifier takes {channels}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_readout_is_trained_judged_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "data", 4, 12)
    made = json.dumps(by_name(4))
    config = TRAIN.format(classifier=made, data=tmp_path / "data", root=tmp_path / "run")
    (tmp_path / "config.yaml").write_text(config)
    assert main(["fit", "--config", str(tmp_path / "config.yaml")], "train.py") == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    command = ["export", str(checkpoint), "--format", "pt2", "--out", str(tmp_path / "export")]
    assert main([*command, *classifier_arguments(4)], "evaluate.py") == 0
    classifier = FrozenClassifier(**by_name(4))
    explainer = ReadoutIBA.load(checkpoint, classifier)
    images = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    heatmap = explainer.attribute(images)
    program = torch.export.load(tmp_path / "export" / "explainer.pt2").module()
    torch.testing.assert_close(program(images), heatmap.values, rtol=1e-4, atol=1e-4)
    readme = (tmp_path / "export" / "README.md").read_text()
    assert "float32 (batch, 4, 24, 40)" in readme
    assert "central 24 x 40 pixels (height x width)" in readme
    assert "(2, 4, 24, 40), dtype=torch.uint8" in readme


def batch(channels: int) -> dict[str, Any]:
    """What a loader yields."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, channels, *SIZE)
    return {
        "picture": torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        "label": torch.tensor([1, 0, 1, 1]),
        "key": list("abcd"),
        "weight": torch.ones(4),
    }


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("kind", ["varsal", "varsal_readout", "input_iba", "real_time_saliency"])
def test_the_other_trainings_take_them(kind: str, channels: int) -> None:
    made = by_name(channels)
    module: Any = {
        "varsal": lambda: VarSalTraining(made, channels=[4]),
        "varsal_readout": lambda: VarSalTraining(
            made, encoder="readout", taps=["see", "find"], width=8
        ),
        "input_iba": lambda: InputIBATraining(made, "find", ["see", "find"], width=8),
        "real_time_saliency": lambda: MaskingTraining(
            made, ["see", "find"], masking={"widths": [8]}
        ),
    }[kind]()
    given = batch(channels)
    module.eval()
    if kind == "input_iba":
        module.measure(iter([module.images_of(given)]))
    assert module(module.images_of(given)).values.shape == (4, *SIZE)
    assert all(drawn.shape[-2:] == SIZE for drawn in module.drawings(given["picture"]))
    module.validation_step(given, 0)


def test_networks_are_retrained_on_them_or_say_what_they_take() -> None:
    given = batch(1)
    pictures = Pictures(given["picture"], given["label"])
    mean, std = colours_of(pictures.pictures)
    recipe = Recipe(network="picture_toys:grey", epochs=1, batch_size=2, validation_fraction=0.5)
    trained = retrain(pictures, 2, recipe, mean, std, 0, torch.device("cpu"))
    assert hits(trained, pictures).shape == (4,)
    wrong = replace(recipe, network="resnet8")
    with pytest.raises(InputError, match=r"resnet8 cannot take pictures of \(1, 24, 40\)"):
        retrain(pictures, 2, wrong, mean, std, 0, torch.device("cpu"))


@pytest.mark.parametrize("channels", [1, 4])
def test_they_are_corrupted_channel_by_channel(channels: int) -> None:
    pixels = batch(channels)["picture"].double() / 255
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    for kind in STRENGTHS:
        assert corrupt(pixels, kind, 3, generators).shape == pixels.shape
    brighter = corrupt(pixels, "brightness", 1, generators)
    assert torch.equal(brighter, (pixels + 0.1).clamp(0, 1))


def test_tokens_lie_on_a_rectangles_grid() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 8, stride=8),
        nn.Flatten(2),
        Tokens(),
    )
    preprocessing = Preprocessing(resize=None, crop=SIZE, mean=(0.5,) * 4, std=(0.5,) * 4)
    layout = FrozenClassifier(network, preprocessing=preprocessing).layout("2.mix")
    assert (layout.kind, layout.height, layout.width, layout.prefix) == ("BTC", 3, 5, 0)


class Tokens(nn.Module):
    """(B, C, T) to logits by way of tokens (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The mean over tokens decides."""
        return self.head(self.mix(features.transpose(1, 2)).relu().mean(dim=1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["fido", "lime", "pda", "extremal_perturbation", "activity"])
def test_a_method_gives_maps_of_the_images_size(name: str) -> None:
    quick: dict[str, dict[str, Any]] = {
        "fido": {"steps": 2, "samples": 2},
        "lime": {"samples": 20, "side": 8},
        "extremal_perturbation": {"steps": 2, "cell": 4, "sigma": 6},
    }
    classifier = FrozenClassifier(**by_name(2))
    images = classifier.images(batch(2)["picture"])
    if name == "pda":
        patches = PatchStatistics.estimate(images, 6, per_image=20)
        quick["pda"] = {"statistics": patches, "window": 4, "border": 1, "samples": 2, "stride": 4}
    explainer = build_explainer(name, classifier, quick.get(name, {}))
    images = images[:2]
    assert explainer.attribute(images, target=1).values.shape == (2, *SIZE)

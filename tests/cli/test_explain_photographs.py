"""Photographs explained without a data set: each by itself, several methods at once, upright."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.classifier import usual_layer
from lit_iba.cli.main import main
from lit_iba.cli.photographs import class_index, load_picture
from lit_iba.data.examples import EXAMPLES, example_photograph
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer

CLASSIFIER = ["--classifier.model", "small_cnn", "--classifier.weights", "random"]
IBA = ["--settings.per_sample_iba.layer", "layer2", "--settings.per_sample_iba.steps", "2"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two photographs that are wider than high, one with a note that it lies on its side."""
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    paths = []
    for name in ("one", "two"):
        small = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        large = small.resize((160, 120), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "two" else 1  # orientation: turn by 90 degrees to see it
        paths.append(str(folder / f"{name}.jpg"))
        large.save(paths[-1], quality=95, exif=exif)
    return paths


def explain(photographs: list[str], out: Path, explainers: str, *more: str) -> None:
    arguments = ["explain", *photographs, *CLASSIFIER, "--explainer", explainers, "--out", str(out)]
    assert main([*arguments, *more], "evaluate.py") == 0


def test_a_photograph_without_a_data_set_does_not_depend_on_the_others(
    photographs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    explain(photographs, together, "per_sample_iba,saliency", *IBA)
    assert "per_sample_iba: bits are relative to the photograph itself" in (
        " ".join(capsys.readouterr().out.split())
    )
    explain(
        photographs[1:], alone, "per_sample_iba", "--settings.layer=layer2", "--settings.steps=2"
    )
    found, expected = (np.load(f / "two.per_sample_iba.npy") for f in (together, alone))
    assert np.array_equal(found, expected)
    assert found.max() > 0


def test_several_methods_stand_on_one_page_that_needs_nothing_else(
    photographs: list[str], tmp_path: Path
) -> None:
    explain(photographs, tmp_path, "per_sample_iba,gradient,saliency", *IBA)
    page = (tmp_path / "explanations.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<figure id="picture-\d+" data-title', page)) == 2
    methods = re.findall(r'data-method="(m-\d|photo)" data-kind="(\w+)"', page)
    kinds = [("photo", "photo"), ("m-0", "bits"), ("m-1", "sizes"), ("m-2", "plain")]
    assert methods == kinds
    assert re.search(r"digit \d \d+\.\d%", page) or re.search(r"\d \d+\.\d%", page)
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_methods_are_called_by_what_ran_and_no_file_is_written_twice(
    photographs: list[str], tmp_path: Path
) -> None:
    names = "grad_cam,my.map,your.map"
    behind = {"grad_cam": "saliency", "my.map": "ramp", "your.map": "centre"}
    settings = json.dumps({name: {"explainer": cls} for name, cls in behind.items()})
    explain(photographs[:1], tmp_path, names, "--settings", settings)
    page = (tmp_path / "explanations.html").read_text(encoding="utf-8")
    assert "Saliency (grad_cam)" in page
    assert "Grad-CAM" not in page
    mine, yours = (np.load(tmp_path / f"one.{name}.map.npy") for name in ("my", "your"))
    assert not np.array_equal(mine, yours)
    assert (tmp_path / "one.grad_cam.npy").is_file()


def test_a_class_is_meant_by_its_name_before_its_number() -> None:
    classifier = FrozenClassifier(
        "small_cnn", "random", num_classes=3, class_names=["1", "10", "2"]
    )
    assert [class_index(name, classifier) for name in ("1", "10", "2", "0")] == [0, 1, 2, 0]
    with pytest.raises(InputError, match="'--1'"):
        class_index("--1", classifier)


def test_a_layer_that_nobody_named_is_said_to_be_chosen(
    photographs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = usual_layer(FrozenClassifier("small_cnn", "random"))
    steps = "--settings.per_sample_iba.steps=2"
    explain(photographs[:1], tmp_path, "per_sample_iba,grad_cam,saliency", steps)
    wanted = (
        f"per_sample_iba: layer {chosen} was chosen by default; --settings.per_sample_iba.layer"
    )
    said = capsys.readouterr().out
    assert f"{wanted} names another." in said
    assert said.count("was chosen by default") == 2  # and Grad-CAM's
    assert wanted in (tmp_path / "explanations.html").read_text(encoding="utf-8")
    explain(
        photographs[:1],
        tmp_path,
        "per_sample_iba,grad_cam",
        *IBA,
        "--settings.grad_cam.layer=layer3",
    )
    assert "was chosen" not in capsys.readouterr().out
    explain(photographs[:1], tmp_path, "grad_cam")
    assert "was chosen by default; --settings.layer names another." in capsys.readouterr().out


def test_statistics_of_an_earlier_command_are_not_taken_unasked(
    photographs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = FrozenClassifier("small_cnn", "random")
    images = torch.randn(4, *network.empty_images().shape[1:])
    kept = tmp_path / "statistics"
    FeatureStatistics.estimate(network, "layer2", images).save(kept / "layer2.safetensors")
    layer = ("--settings.layer=layer2", "--settings.steps=2")
    said = []
    for more in ([], [f"--statistics_folder={kept}"]):
        explain(photographs[:1], tmp_path, "per_sample_iba", *layer, *more)
        said.append(
            "relative to the photograph itself" in " ".join(capsys.readouterr().out.split())
        )
    assert said == [True, False]


@pytest.mark.parametrize("command", ["explain", "view"])
def test_a_method_that_does_not_fit_is_refused_before_another_has_worked(
    command: str,
    photographs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worked: list[str] = []
    monkeypatch.setattr(Explainer, "attribute", lambda self, *_, **__: worked.append(str(self)))
    arguments = [command, *photographs, *CLASSIFIER, "--explainer", "saliency,grad_cam"]
    out = ["--out", str(tmp_path / "out")] if command == "explain" else []
    assert main([*arguments, "--settings.grad_cam.layer=nowhere", *out], "evaluate.py") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not worked
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_there_and_can_be_explained(name: str) -> None:
    path = example_photograph(name)
    assert path is not None
    picture = load_picture(path, FrozenClassifier("small_cnn", "random"))
    assert picture.shape[0] == 3
    assert float(picture.float().std()) > 10


def test_overlays_at_the_photographs_own_size_are_upright(
    photographs: list[str], tmp_path: Path
) -> None:
    explain(photographs, tmp_path, "saliency")
    for name, size in (("one", (160, 120)), ("two", (120, 160))):
        with Image.open(tmp_path / f"{name}.saliency.photograph.jpg") as drawn:
            assert drawn.size == size
            pixels = np.asarray(drawn.convert("RGB")).astype(int)
        colour = (pixels.max(axis=2) - pixels.min(axis=2)) > 24  # the backdrop is grey
        rows, columns = np.flatnonzero(colour.any(axis=1)), np.flatnonzero(colour.any(axis=0))
        assert len(rows), name
        margin = (max(size) - min(size)) // 2 - 4  # the crop is a central square
        longer = columns if name == "one" else rows
        assert longer.min() >= margin - 8
        assert longer.max() <= max(size) - margin + 8

"""What export refuses, in one sentence, leaving nothing behind."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_toys import random_images, trained_like

from lit_iba.classifier import FrozenClassifier, Preprocessing, SmallCNN
from lit_iba.errors import InputError
from lit_iba.export import export_explainer, load_exported, write
from lit_iba.iba.per_sample import PerSampleIBA
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.statistics import FeatureStatistics


@pytest.fixture(scope="module")
def explainer() -> ReadoutIBA:
    return trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1", "fc"])


def test_file_that_is_too_far_off_leaves_nothing(
    explainer: ReadoutIBA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write._run

    def off(*given: Any) -> Any:
        results = run(*given)
        results[0][0].mul_(1.01)
        return results

    monkeypatch.setattr(write, "_run", off)
    with pytest.raises(InputError, match=r"explainer\.safetensors computes something else"):
        export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_changed_files_are_refused(explainer: ReadoutIBA, tmp_path: Path) -> None:
    folder = export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False).folder
    path = folder / "explainer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for given in (folder, path):
        with pytest.raises(InputError, match=r"is not the file that was exported.*export it again"):
            load_exported(given)
    (folder / "explainer.json").unlink()  # the file alone knows its tensors' hash
    with pytest.raises(InputError, match=r"tensors in .* are not those"):
        load_exported(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_exported(path)
    path.unlink()
    with pytest.raises(InputError, match=r"holds no explainer\.json"):
        load_exported(folder)


def test_missing_packages_name_the_extra(
    explainer: ReadoutIBA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        InputError, match=r"onnx needs onnxscript; install it with: pip install 'lit_iba\[export\]'"
    ):
        export_explainer(explainer, tmp_path / "out", ["onnx"], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_at_once(explainer: ReadoutIBA, tmp_path: Path) -> None:
    classifier, out = explainer.classifier, tmp_path / "out"
    statistics = FeatureStatistics.estimate(classifier, "layer1", random_images(4, 64))
    with pytest.raises(InputError, match="PerSampleIBA cannot be exported"):
        export_explainer(
            PerSampleIBA(classifier, layer="layer1", statistics=statistics), out, progress=False
        )
    with pytest.raises(InputError, match="no statistics yet"):
        export_explainer(ReadoutIBA(classifier, "layer1", ["layer1"]), out, progress=False)
    with pytest.raises(
        InputError, match="'onxx' is not a known export format; did you mean 'onnx'"
    ):
        export_explainer(explainer, out, ["onxx"], progress=False)
    with pytest.raises(InputError, match=r"\(N, 3, 64, 64\)"):
        export_explainer(explainer, out, example_images=random_images(1, 32), progress=False)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md of something else"):
        export_explainer(explainer, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_blurred_maps_are_refused_for_what_they_are(tmp_path: Path) -> None:
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1"])
    explainer.smooth = 4.0
    with pytest.raises(InputError, match=r"are blurred \(smooth = 4\.0\).*set smooth to 0"):
        export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_classifier_in_float64_gives_a_program_that_takes_float32(tmp_path: Path) -> None:
    classifier = FrozenClassifier(
        SmallCNN().double(), preprocessing=Preprocessing(resize=None, crop=64)
    )
    explainer = trained_like(classifier, "layer1", ["layer1"])
    report = export_explainer(explainer, tmp_path / "out", ["pt2"], progress=False)
    images = random_images(3, 64, seed=5)
    program = torch.export.load(report.files["pt2"][0]).module()
    torch.testing.assert_close(program(images), explainer.attribute(images).values)
    with pytest.raises(InputError, match=r"onnxruntime cannot run .* export pt2"):
        export_explainer(explainer, tmp_path / "onnx", ["onnx"], progress=False)

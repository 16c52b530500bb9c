"""Exports compute what the explainer computes, say what they are, and are refused where they do not
fit.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from export_toys import random_images, trained_like
from torch import Tensor, nn

import lit_iba
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.errors import InputError
from lit_iba.export import (
    FORMATS,
    ExportReport,
    check_export,
    export_checkpoint,
    export_explainer,
    load_exported,
)
from lit_iba.export import program as export_program
from lit_iba.export.program import largest_errors, relative_errors, trace_program
from lit_iba.files import sha256_of
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.iba.readout_training import ReadoutTraining

# torch 2.11 says so of every weight while it loads a .pt2; its own copy follows.
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")

TAPS = ["layer1", "layer2", "layer3", "fc"]


def onnx_maps(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["heatmap"], {"images": images.numpy()})[0])


def all_bytes(path: Path) -> bytes:
    """A file's content, and that of what is packed into it."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.fixture(scope="module")
def explainer() -> ReadoutIBA:
    return trained_like(FrozenClassifier("small_cnn", "random"), "layer1", TAPS)


@pytest.fixture(scope="module")
def exported(explainer: ReadoutIBA, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    smooth = torch.linspace(-2, 2, 64).expand(2, 3, 64, 64) * torch.tensor([1.0, -0.5]).view(
        2, 1, 1, 1
    )
    folder = tmp_path_factory.mktemp("exports") / "readout"
    return export_explainer(explainer, folder, example_images=smooth, progress=False)


@pytest.mark.slow
def test_every_format_was_measured_at_every_batch_size(exported: ExportReport) -> None:
    assert set(exported.errors) == set(FORMATS)
    for name in FORMATS:
        assert set(exported.errors[name]) == {1, 2, 7}
        assert all(0 <= error < 1e-4 for error in exported.errors[name].values())
    assert exported.errors["onnx"][7] > 0, (
        "another runtime rounds otherwise: a zero would mean that nothing was compared"
    )


@pytest.mark.parametrize("count", [1, 2, 7])
def test_programs_give_the_explainers_bits_for_new_images(
    explainer: ReadoutIBA, exported: ExportReport, count: int
) -> None:
    images = random_images(count, 64, seed=5)
    expected = explainer.attribute(images).values
    assert expected.amax() > 2 * expected.amin() > 0
    program = torch.export.load(exported.folder / "explainer.pt2").module()
    for found in (program(images), onnx_maps(exported.folder / "explainer.onnx", images)):
        assert found.shape == (count, 64, 64)
        assert not found.requires_grad
        deviation = (found - expected).abs().flatten(1).amax(1) / expected.flatten(1).amax(1)
        assert deviation.max() < 1e-4
    assert torch.equal(load_exported(exported.folder).attribute(images).values, expected)


def test_export_leaves_the_explainer_as_it_was(
    explainer: ReadoutIBA, exported: ExportReport
) -> None:
    assert all(parameter.requires_grad for parameter in explainer.network.parameters())


def test_programs_refuse_another_picture_size(exported: ExportReport) -> None:
    images = random_images(2, 32)
    with pytest.raises(AssertionError, match="64"):
        torch.export.load(exported.folder / "explainer.pt2").module()(images)
    with pytest.raises(Exception, match="Expected: 64"):
        onnx_maps(exported.folder / "explainer.onnx", images)


def test_nothing_in_the_programs_is_drawn_at_random(exported: ExportReport) -> None:
    program = torch.export.load(exported.folder / "explainer.pt2")
    operations = {str(n.target) for n in program.graph.nodes} | {
        n.op_type for n in onnx.load(exported.folder / "explainer.onnx").graph.node
    }
    assert {"Conv", "aten.conv2d.default"} <= operations
    assert not [
        name
        for name in operations
        if re.search("rand|bernoulli|dropout|normal_", name, re.IGNORECASE)
    ]


@pytest.mark.slow
def test_readme_runs_where_lit_iba_cannot_be_imported(
    exported: ExportReport, tmp_path: Path
) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (exported.folder / "README.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 3
    for block, first in zip(blocks, ("import torch", "import numpy"), strict=False):
        assert block.startswith(first)
        checks = (
            "import sys; sys.modules['lit_iba'] = None\n"
            + block
            + "print(*heatmap.shape, float(heatmap.min()) > 0)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", checks],
            cwd=exported.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["2", "64", "64", "True"], done.stderr
    names: dict[str, Any] = {"pictures": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}
    exec(blocks[2].replace('"."', repr(str(exported.folder))), names)
    assert names["heatmap"].values.shape == (1, 64, 64)


@pytest.mark.slow
def test_pt2_check_ran_without_lit_iba(exported: ExportReport, tmp_path: Path) -> None:
    """The check's own process refuses when the import happens, as here, where a site file brings it
    about.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types; sys.modules['lit_iba'] = types.ModuleType('lit_iba')"
    )
    torch.save([random_images(1, 64)], tmp_path / "batches.pt")
    paths = [
        str(exported.folder / "explainer.pt2"),
        str(tmp_path / "batches.pt"),
        str(tmp_path / "results.pt"),
    ]
    command = [sys.executable, "-P", "-c", export_program._ELSEWHERE, *paths]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "imported lit_iba" in done.stderr


def test_every_file_carries_the_contract(explainer: ReadoutIBA, exported: ExportReport) -> None:
    folder = exported.folder
    description = json.loads((folder / "explainer.json").read_text())
    assert description == exported.description
    inside: dict[str, Any] = {"explainer.json": ""}
    torch.export.load(folder / "explainer.pt2", extra_files=inside)
    session = onnxruntime.InferenceSession(
        folder / "explainer.onnx", providers=["CPUExecutionProvider"]
    )
    with safetensors.safe_open(folder / "explainer.safetensors", framework="pt") as file:
        embedded = [
            inside["explainer.json"],
            session.get_modelmeta().custom_metadata_map["lit_iba"],
            file.metadata()["lit_iba"],
        ]
    for text in embedded:
        carried = json.loads(text)
        assert carried == {key: description[key] for key in carried}
        assert set(description) - set(carried) == {"formats", "files", "documents"}
    assert description["classifier"] == explainer.classifier.identity | {
        "record": {"model": "small_cnn", "weights": "random", "num_classes": 10}
    }
    assert description["explainer"]["settings"]["taps"] == TAPS
    assert description["class_names"] == explainer.classifier.class_names
    assert description["outputs"][0]["unit"] == "bits"
    assert description["packages"]["torch"] == torch.__version__.partition("+")[0]
    for name, facts in description["files"].items():
        assert facts == {
            "sha256": sha256_of(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
    assert (
        [str(d) for d in session.get_inputs()[0].shape]
        == ["batch", "3", "64", "64"]
        == [str(d) for d in description["input"]["shape"]]
    )


def test_preprocessing_survives_the_round_trip(
    explainer: ReadoutIBA, exported: ExportReport
) -> None:
    description = check_export(exported.folder)
    assert (
        Preprocessing.from_dict(description["preprocessing"]) == explainer.classifier.preprocessing
    )
    pictures = torch.arange(3 * 64 * 64).remainder(256).to(torch.uint8).view(1, 3, 64, 64)
    mean, std = (
        np.array(description["preprocessing"][k], dtype=np.float32).reshape(3, 1, 1)
        for k in ("mean", "std")
    )
    by_hand = (pictures.numpy().astype(np.float32) / 255 - mean) / std
    assert np.allclose(by_hand, explainer.classifier.images(pictures).numpy(), atol=1e-6)


def test_files_name_nothing_of_the_machine(exported: ExportReport) -> None:
    own = str(Path(lit_iba.__file__).parent).encode()
    libraries = str(Path(torch.__file__).parent).encode()
    for name in exported.description["files"]:
        content = all_bytes(exported.folder / name)
        assert own not in content
        assert libraries not in content


def test_programs_hold_only_the_layers_that_are_read() -> None:
    network = SmallCNN()
    network.unused = nn.Linear(1000, 1000)
    explainer = trained_like(
        FrozenClassifier(network, preprocessing=Preprocessing(resize=None, crop=64)),
        "layer1",
        ["layer1"],
    )
    kept = trace_program(explainer).state_dict
    assert any("layer1" in name for name in kept)
    assert not [name for name in kept if "unused" in name or "layer2" in name]


@pytest.mark.slow
def test_smallest_lambda_survives_the_onnx_optimiser(tmp_path: Path) -> None:
    """Where alpha is huge, 1 - lambda is its floor of 1e-7; without the floor the logarithm would
    be infinite.
    """
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer2", ["layer2"])
    with torch.no_grad():
        explainer.network.write.weight.zero_()
        explainer.network.write.bias.fill_(60.0)
    report = export_explainer(explainer, tmp_path / "out", ["onnx"], progress=False)
    images = random_images(2, 64, seed=9)
    network = explainer.network
    r = explainer.classifier.taps(["layer2"])(images)["layer2"].double()
    standard = (r - network.get_buffer("noise_mean")) / network.get_buffer("noise_std")
    keep, drop = 1 - 1e-7, 1e-7
    bits = (keep**2 * standard**2 - keep * (1 + drop)) / 2 - np.log(drop)
    bits = (bits * network.get_buffer("noise_active")).sum(dim=(1, 2, 3)) / np.log(2)
    found = onnx_maps(report.folder / "explainer.onnx", images).double().sum(dim=(1, 2))
    assert torch.allclose(found, bits, rtol=1e-4)


@pytest.mark.slow
def test_large_weights_go_to_a_file_of_their_own(
    explainer: ReadoutIBA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_program, "ONNX_FILE_LIMIT", 1000)
    report = export_explainer(explainer, tmp_path / "out", ["onnx"], progress=False)
    assert [path.name for path in report.files["onnx"]] == ["explainer.onnx", "explainer.onnx.data"]
    images = random_images(2, 64, seed=9)
    expected = explainer.attribute(images).values
    assert torch.allclose(
        onnx_maps(report.files["onnx"][0], images), expected, atol=1e-4 * float(expected.max())
    )
    report.files["onnx"][1].write_bytes(b"something else")
    with pytest.raises(InputError, match=r"explainer\.onnx\.data is not the file"):
        check_export(report.folder)


def test_relative_error_is_that_of_the_worst_pixel_of_each_map() -> None:
    expected = torch.zeros(4, 2, 2)
    expected[0, 0, 0], expected[1, 1, 1] = -4.0, 2.0
    given = expected.clone()
    given[0, 1, 0] += 1.0
    given[3, 0, 0] = torch.nan
    given[2, 0, 0] = 1e-9
    errors = relative_errors(given, expected)
    assert errors[:3].tolist() == [0.25, 0.0, float("inf")]
    assert errors[3].isnan()
    assert relative_errors(given[:, :1], expected).isinf().all()
    assert largest_errors([(given[:1],), (given[1:2],)], [(expected[:1],), (expected[1:2],)]) == {
        1: 0.25
    }


def test_loading_says_which_format_is_missing(exported: ExportReport, tmp_path: Path) -> None:
    shutil.copytree(exported.folder, tmp_path / "out")
    (tmp_path / "out" / "explainer.safetensors").unlink()
    with pytest.raises(InputError, match="--format safetensors"):
        load_exported(tmp_path / "out")


def test_other_classifiers_are_refused(exported: ExportReport) -> None:
    preprocessing = FrozenClassifier("small_cnn", "random").preprocessing
    torch.manual_seed(3)
    with pytest.raises(InputError, match="load the classifier that it was made with"):
        load_exported(exported.folder, FrozenClassifier(SmallCNN(), preprocessing=preprocessing))
    darker = Preprocessing(resize=None, crop=64, mean=(0.1, 0.1, 0.1), std=preprocessing.std)
    with pytest.raises(InputError, match="give the classifier the export's preprocessing"):
        load_exported(
            exported.folder, FrozenClassifier("small_cnn", "random", preprocessing=darker)
        )


def test_export_for_a_module_of_ones_own_asks_for_it(tmp_path: Path) -> None:
    classifier = FrozenClassifier(SmallCNN(), preprocessing=Preprocessing(resize=None, crop=64))
    explainer = trained_like(classifier, "layer1", ["layer1"], hidden=[8, 8], clamp_alpha=5.0)
    export_explainer(explainer, tmp_path / "out", ["safetensors"], progress=False)
    with pytest.raises(InputError, match="give load_exported your FrozenClassifier"):
        load_exported(tmp_path / "out")
    loaded = load_exported(tmp_path / "out", classifier)
    images = random_images(2, 64)
    assert torch.equal(loaded.attribute(images).values, explainer.attribute(images).values)
    assert loaded.network.settings.hidden == (8, 8)


def test_formats_of_the_same_explainer_join_and_those_of_another_go(
    explainer: ReadoutIBA, exported: ExportReport, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(exported.folder, folder)
    (folder / "explainer.onnx").write_bytes(b"changed since")
    export_explainer(explainer, folder, ["safetensors"], progress=False)
    assert set(check_export(folder)["files"]) == {"explainer.pt2", "explainer.safetensors"}
    assert not (folder / "explainer.onnx").exists()
    other = trained_like(explainer.classifier, "layer1", ["layer1"])
    (folder / "explainer.ckpt").write_text("not ours")
    export_explainer(other, folder, ["safetensors"], progress=False)
    left = {
        "explainer.json",
        "explainer.safetensors",
        "README.md",
        "explainer.md",
        "explainer.ckpt",
    }
    assert {path.name for path in folder.iterdir()} == left
    assert load_exported(folder).taps == ["layer1"]


def write_checkpoint(path: Path) -> ReadoutTraining:
    training = ReadoutTraining(
        {"model": "small_cnn", "weights": "random"}, "layer1", ["layer1", "layer2"], beta=3.0
    )
    like = trained_like(training.classifier, "layer1", ["layer1", "layer2"])
    training.network.load_state_dict(like.network.state_dict())
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(training)
    trainer.save_checkpoint(path)
    return training


def test_checkpoint_is_exported_with_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.ckpt"
    training = write_checkpoint(path)
    report = export_checkpoint(path, tmp_path / "out", ["safetensors"])
    record = report.description["checkpoint"]
    assert record["sha256"] == sha256_of(path)
    assert (record["file"], record["training"]["beta"], record["epoch"]) == ("last.ckpt", 3.0, 0)
    images = random_images(2, 64)
    assert torch.equal(
        load_exported(tmp_path / "out").attribute(images).values, training(images).values
    )
    assert "largest relative error 0.0e+00" in capsys.readouterr().err

    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"lit_iba_kind": "ClassifierTraining"}, path)
    with pytest.raises(InputError, match="ClassifierTraining, which has no export"):
        export_checkpoint(path, tmp_path / "other", ["safetensors"])

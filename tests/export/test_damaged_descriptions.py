"""Whatever is wrong with what an export says of itself is told in one sentence."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
from export_toys import trained_like

from lit_iba.classifier import FrozenClassifier
from lit_iba.cli.main import main
from lit_iba.errors import InputError
from lit_iba.export import check_export, export_explainer, load_exported, pull_export, push_export
from lit_iba.iba.readout import ReadoutIBA

GONE = object()
VALUES = [GONE, None, 5, "x", [5], {"x": 5}]
FOR_PEOPLE = {"input", "outputs", "checkpoint", "license", "packages"}  # read by no program
READ = {
    *[("explainer",), ("explainer", "name"), ("explainer", "settings"), ("explainer", "sha256")],
    *[("classifier",), ("classifier", "model"), ("classifier", "weights")],
    *[("classifier", "sha256"), ("preprocessing",), ("class_names",)],
}
READ_OF_FOLDER = {
    *[("formats",), ("formats", "safetensors"), ("formats", "safetensors", "files")],
    *[("files",), ("files", "explainer.safetensors")],
    *[("files", "explainer.safetensors", key) for key in ("sha256", "bytes")],
    *[("documents", "README.md"), ("documents", "README.md", "bytes")],
}
MAY_GO = {("formats", "safetensors"), ("documents", "README.md")}
Change = Callable[[dict[str, Any]], object]


def named(value: Any) -> str:
    """What a test of a value is called, in every process."""
    return "gone" if value is GONE else repr(value)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every entry of a description and its value, down to single numbers."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*at, key), inner
        if isinstance(inner, dict | list) and key not in FOR_PEOPLE:
            yield from places(inner[:3] if isinstance(inner, list) else inner, (*at, key))


def damaged(description: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(description)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


def embedded(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with safetensors.safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["lit_iba"])
        return said, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "mine")


def outcome(do: Callable[[], object]) -> str:
    """What it is refused with; empty where it is taken. Anything else but InputError goes on."""
    try:
        do()
    except InputError as error:
        said = str(error)
    else:
        said = ""
    assert len(said.splitlines()) <= 1
    return said


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_no_entry_beside_the_files_can_be_damaged_to_a_traceback(folder: Path, value: Any) -> None:
    path = folder / "explainer.json"
    description = json.loads(path.read_text())
    found = dict(places(description))
    assert {*READ, *READ_OF_FOLDER} <= {*found}
    for place, right in found.items():
        path.write_text(json.dumps(damaged(description, place, value)))
        said = outcome(lambda: check_export(folder))
        other = place not in MAY_GO if value is GONE else type(value) is not type(right)
        if place in READ | READ_OF_FOLDER and other:
            assert f"{path} is damaged (it" in said, (place, value)
        outcome(lambda: push_export(folder, str(folder.parent / "there")))
        outcome(lambda: pull_export(str(folder), folder.parent / "back"))
        if len(place) == 1:
            assert outcome(lambda: load_exported(folder)) == said


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_no_entry_inside_the_file_can_be_damaged_to_a_traceback(
    folder: Path, tmp_path: Path, value: Any
) -> None:
    said, tensors = embedded(folder / "explainer.safetensors")
    alone = tmp_path / "alone.safetensors"
    found = dict(places(said))
    assert {*READ} <= {*found}
    for place, right in found.items():
        changed = damaged(said, place, value)
        alone.write_bytes(
            safetensors.torch.save(tensors, metadata={"lit_iba": json.dumps(changed)})
        )
        refused = outcome(lambda: load_exported(alone))
        if place in READ and type(value) is not type(right):
            assert "alone.safetensors is damaged (it" in refused, (place, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("files"),
        lambda d: d.update(files=[]),
        lambda d: d["files"].update({"explainer.safetensors": None}),
        lambda d: d["formats"].update(safetensors=None),
        lambda d: d.pop("formats"),
        lambda d: d.update(class_names=["\ud800"]),  # half a character, which no file can hold
    ],
)
def test_commands_refuse_a_damaged_description_and_another_folder_mends_it(
    folder: Path, tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "explainer.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    words = ["explain", "chelsea", "--explainer", "readout_iba", "--out", str(tmp_path / "out")]
    assert main([*words, "--settings.checkpoint", str(folder)], "evaluate.py") == 2
    said = capsys.readouterr().err.strip()
    assert "explainer.json is damaged" in said
    assert said.endswith("export the explainer again, into a new folder")
    explainer = trained_like(FrozenClassifier("small_cnn", "random"), "layer1", ["layer1"])
    with pytest.raises(InputError, match=r"is damaged .* into a new folder"):
        export_explainer(explainer, folder, ["safetensors"], progress=False)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    new = export_explainer(explainer, tmp_path / "new", ["safetensors"], progress=False).folder
    assert isinstance(load_exported(new), ReadoutIBA)


def test_settings_that_no_explainer_has_are_refused(folder: Path) -> None:
    """The file fits its hashes; what it says is nothing that an export writes."""
    path = folder / "explainer.safetensors"
    said, tensors = embedded(path)
    for settings in ({"taps": 5}, {"readout": 5}, {"readout": {"hidden": "x"}}, {"seed": []}):
        changed = copy.deepcopy(said)
        changed["explainer"]["settings"] |= settings
        path.write_bytes(safetensors.torch.save(tensors, {"lit_iba": json.dumps(changed)}))
        described = json.loads((folder / "explainer.json").read_text())
        described["files"][path.name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        (folder / "explainer.json").write_text(json.dumps(described))
        for given in ({}, {"seed": 1}):
            with pytest.raises(InputError):
                ReadoutIBA.of_export(folder, **({} if "seed" in settings else given))

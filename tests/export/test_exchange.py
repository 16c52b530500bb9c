"""Exports pushed somewhere and pulled back: the same bytes, or one sentence and no file."""

import json
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lit_iba.cli.main import main
from lit_iba.cli.sentences import as_sentence
from lit_iba.errors import InputError
from lit_iba.export import check_export, load_exported, pull_export, push_export


@pytest.fixture
def bucket(exported: Path) -> Iterator[str]:
    """The address of a pushed export."""
    push_export(exported, "memory://exchanged/readout")
    yield "memory://exchanged/readout"
    fsspec.filesystem("memory").rm("/exchanged", recursive=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(bucket: str, change: Any) -> None:
    """Change the description in a bucket."""
    system = fsspec.filesystem("memory")
    place = f"{bucket.removeprefix('memory:/')}/explainer.json"
    description = json.loads(system.cat_file(place))
    change(description)
    system.pipe_file(place, json.dumps(description).encode())


@pytest.mark.parametrize("address", ["memory://exchanged/there", "shelf/readout"])
def test_what_is_pulled_is_what_was_pushed(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(exported), address]) == 0
    assert main(["pull", address, "back"]) == 0
    assert "verified: explainer.safetensors" in capsys.readouterr().out
    assert content(tmp_path / "back") == content(exported)
    assert len(content(exported)) == 4
    assert type(load_exported(tmp_path / "back")).__name__ == "ReadoutIBA"


def test_the_driver_gets_its_options(exported: Path, tmp_path: Path) -> None:
    address, options = f"file://{tmp_path}/new/there", ["--storage_options.auto_mkdir", "true"]
    assert main(["push", str(exported), address]) == 2  # it makes no folders unless told to
    assert main(["push", str(exported), address, *options]) == 0
    assert main(["pull", address, str(tmp_path / "back"), "--storage_options.no", "1"]) == 0
    assert content(tmp_path / "back") == content(exported)


def test_an_edited_card_travels_and_a_changed_program_does_not(
    exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "mine")
    (folder / "explainer.md").write_text("# My words\n")
    push_export(folder, str(tmp_path / "there"))
    pull_export(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back" / "explainer.md").read_text() == "# My words\n"
    check_export(tmp_path / "back")
    (folder / "explainer.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the file that was exported"):
        push_export(folder, str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["explainer.safetensors", "explainer.md"])
def test_one_flipped_bit_leaves_nothing(bucket: str, tmp_path: Path, name: str) -> None:
    system, place = fsspec.filesystem("memory"), f"/exchanged/readout/{name}"
    changed = bytearray(system.cat_file(place))
    changed[len(changed) // 2] ^= 1
    system.pipe_file(place, bytes(changed))
    with pytest.raises(InputError, match=rf"{name} is not the file that was pushed"):
        pull_export(bucket, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_of_where_an_export_goes(exported: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="too large") as refused:
            pull_export(str(exported), tmp_path / "there")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(as_sentence(refused.value)).startswith(str(tmp_path))
    assert not (tmp_path / "there").exists()


def test_a_refused_pull_leaves_what_was_there(bucket: str, exported: Path, tmp_path: Path) -> None:
    folder = pull_export(bucket, tmp_path / "back") and tmp_path / "back"
    fsspec.filesystem("memory").pipe_file("/exchanged/readout/README.md", b"more" * 10_000)
    with pytest.raises(InputError, match=r"README\.md has more than [\d,]+ bytes"):
        pull_export(bucket, folder)
    assert content(folder) == content(exported)
    assert list(tmp_path.iterdir()) == [folder]


def test_files_of_the_export_before_go(bucket: str, tmp_path: Path) -> None:
    folder = pull_export(bucket, tmp_path / "back") and tmp_path / "back"
    (folder / "notes.txt").write_text("mine")
    (folder / "explainer.pt2").write_text("of the export before")
    described = json.loads((folder / "explainer.json").read_text())
    facts = {"sha256": "0" * 64, "bytes": 3}
    described["files"] |= {"explainer.pt2": facts, "notes.txt": facts}
    (folder / "explainer.json").write_text(json.dumps(described))
    pull_export(bucket, folder)
    assert (folder / "notes.txt").exists()
    assert not (folder / "explainer.pt2").exists()


@pytest.mark.parametrize("key", ["files", "documents"])
@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "explainer.json", "a/b", ""])
def test_hostile_names_are_refused(bucket: str, tmp_path: Path, key: str, name: str) -> None:
    facts = {"sha256": "0" * 64, "bytes": 3}
    rewrite(bucket, lambda description: description[key].update({name: facts}))
    with pytest.raises(InputError, match=f"names a file {re.escape(repr(name))}, which is none of"):
        pull_export(bucket, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": ["explainer.pt2"]}, "files must be names of files"),
        ({"files": {}}, "files must be names of files"),
        (
            {"files": {"explainer.pt2": {"sha256": "0", "bytes": 1}}},
            "with SHA-256 and size of each",
        ),
        (
            {"files": {"explainer.pt2": {"sha256": "0" * 64, "bytes": -1}}},
            "with SHA-256 and size of each",
        ),
        ({"schema": "new"}, "does not describe an exported explainer"),
        ({"schema": 99}, "update lit_iba"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(
    bucket: str, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    rewrite(bucket, lambda description: description.update(change))
    with pytest.raises(InputError, match=f"^{bucket}/explainer.json .*{said}"):
        pull_export(bucket, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_folder_is_replaced_and_not_followed(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "back"
    folder.mkdir()
    (folder / "explainer.safetensors").symlink_to(tmp_path / "outside")
    pull_export(bucket, folder)
    assert (tmp_path / "outside").read_text() == "mine"
    check_export(folder)


def test_what_is_no_export_is_said(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    fsspec.filesystem("memory").pipe_file("/exchanged/taken/README.md", b"theirs")
    project, out = str(tmp_path / "project"), str(tmp_path / "new" / "out")
    cases = {
        "holds no explainer.json": ["push", project, out],
        "project has a README.md of something else": ["push", str(exported), project],
        "taken has a README.md of something else": [
            "push",
            str(exported),
            "memory://exchanged/taken",
        ],
        "nobody knows addresses that begin with nowhere://": ["pull", "nowhere://a/b", out],
        "nobody knows addresses that begin with pipe://": ["pull", "pipe:touch x", out],
        "memory://no/explainer.json cannot be had: it is not there": ["pull", "memory://no", out],
        "explainer.json is not there; give the folder": ["pull", project, out],
        "the address is empty": ["push", str(exported), ""],
    }
    for said, arguments in cases.items():
        assert main(arguments) == 2, said
        found = capsys.readouterr().err
        assert said in found
        assert found.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["project", "README.md"]
    assert fsspec.filesystem("memory").cat_file("/exchanged/taken/README.md") == b"theirs"
    fsspec.filesystem("memory").rm("/exchanged", recursive=True)

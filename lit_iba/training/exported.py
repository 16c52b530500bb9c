"""Reading an export of a trained explainer: its ``explainer.json``, checked; its tensors; and the
classifier that it belongs to.

Files that changed since they were exported are refused, and so are classifiers that the explainer
was not trained for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from lit_iba.classifier import FrozenClassifier, recorded_classifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError
from lit_iba.files import read_text, sha256_of
from lit_iba.training.checkpoint import entries_of

SCHEMA, KIND = 1, "lit_iba.exported_explainer"
METADATA_KEY = "lit_iba"  # of ONNX's metadata_props and of safetensors' metadata
METADATA_FILE = "explainer.json"  # beside the files, and among the extra files inside a .pt2
TENSORS_FILE = "explainer.safetensors"
README_FILE, CARD_FILE = "README.md", "explainer.md"
FILES = ("explainer.pt2", "explainer.onnx", "explainer.onnx.data", TENSORS_FILE)
DOCUMENTS = (README_FILE, CARD_FILE)


def is_export(path: str | Path) -> bool:
    """Whether a path is that of an export, and not of a checkpoint."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors"


def hash_of_explainer(description: dict[str, Any]) -> str:
    """SHA-256 of what an export's maps follow from: which explainer it is, its settings and the
    hash of its tensors; not of the words around them, which may be corrected.
    """
    facts = {name: description["explainer"][name] for name in ("name", "settings", "sha256")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_whole(folder: Path, description: dict[str, Any], name: str) -> bool:
    """Whether a file of the export is there and has the hash that the description states."""
    path = folder / name
    stated = description["files"].get(name)
    return stated is not None and path.is_file() and sha256_of(path) == stated["sha256"]


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_files(value: Any) -> bool:
    """Whether something states SHA-256 and size of each file that it names."""
    return isinstance(value, dict) and all(
        isinstance(facts, dict)
        and _is_sha256(facts.get("sha256"))
        and type(facts.get("bytes")) is int
        and facts["bytes"] >= 0
        for facts in value.values()
    )


def _are_formats(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(facts, dict) and _are_names(facts.get("files")) for facts in value.values()
    )


_Entry = tuple[Callable[[Any], bool], str]  # what it must fulfil, and that in words
_TEXT: _Entry = (lambda value: isinstance(value, str), "a text")
_MAPPING: _Entry = (lambda value: isinstance(value, dict), "a mapping")
_SHA256: _Entry = (_is_sha256, "a SHA-256")
# Every entry that is read anywhere; the others are for people.
_ENTRIES: dict[tuple[str, ...], _Entry] = {
    ("explainer",): _MAPPING,
    ("explainer", "name"): _TEXT,
    ("explainer", "settings"): _MAPPING,
    ("explainer", "sha256"): _SHA256,
    ("classifier",): _MAPPING,
    ("classifier", "model"): _TEXT,
    ("classifier", "weights"): _TEXT,
    ("classifier", "sha256"): _SHA256,
    ("classifier", "record"): (lambda value: value is None or isinstance(value, dict), "a mapping"),
    ("preprocessing",): _MAPPING,
    ("class_names",): (_are_names, "a list of names"),
}
_STATED = "names of files, with SHA-256 and size of each"
# Of the explainer.json beside the files; those inside a file were written before there were files.
_ENTRIES_OF_FOLDER: dict[tuple[str, ...], _Entry] = {
    ("formats",): (_are_formats, "formats, with the files of each"),
    ("files",): (lambda value: bool(value) and _are_files(value), _STATED),
    ("documents",): (_are_files, _STATED),
}


def read_description(folder: str | Path) -> dict[str, Any]:
    """The content of an export's ``explainer.json``.

    Raises:
        InputError: It is missing, damaged, of something else, or of a newer version.
    """
    path = Path(folder) / METADATA_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {METADATA_FILE}; give a folder that 'evaluate.py export' wrote"
        )
    return check_description(read_text(path, "description"), path)


def check_description(text: str, path: str | Path, embedded: bool = False) -> dict[str, Any]:
    """The content of an ``explainer.json``, given its text and where that comes from. Whatever is
    read of it anywhere is there, and of the right type.

    Args:
        text: As it was written.
        path: Where it comes from, for errors.
        embedded: Whether it stood inside a file, where it says nothing of files.

    Raises:
        InputError: As :func:`read_description`.
    """
    try:
        description = json.loads(text)
        json.dumps(description, ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    known = isinstance(description, dict) and description.get("kind") == KIND
    if not known or type(description.get("schema")) is not int:
        raise InputError(
            f"{path} does not describe an exported explainer; give one that 'evaluate.py export'"
            " wrote"
        )
    if description["schema"] > SCHEMA:
        raise InputError(
            f"{path} has schema {description['schema']}, this lit_iba reads up to {SCHEMA}; update"
            " lit_iba"
        )
    if not embedded:
        description.setdefault("documents", {})
    for place, (right, words) in (_ENTRIES | ({} if embedded else _ENTRIES_OF_FOLDER)).items():
        value: Any = description
        for name in place:
            if name not in value:
                raise _damaged(path, f"it has no {'.'.join(place)}")
            value = value[name]
        if not right(value):
            raise _damaged(path, f"its {'.'.join(place)} must be {words}")
    try:
        Preprocessing.from_dict(description["preprocessing"])
    except InputError as error:
        raise _damaged(path, f"of its preprocessing, {str(error).partition(';')[0]}") from error
    return description


def _damaged(path: str | Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}); export the explainer again, into a new folder")


def recorded_files(description: dict[str, Any], source: str | Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and size of each file that an ``explainer.json`` names.

    Raises:
        InputError: One has another name than the files of exports: it comes from outside.
    """
    found: dict[str, tuple[str, int]] = {}
    for key, known in (("files", FILES), ("documents", DOCUMENTS)):
        for name, facts in description[key].items():
            if name not in known:
                raise InputError(
                    f"{source} names a file {name!r}, which is none of an export"
                    f" ({', '.join(known)}); do not use it, or update lit_iba"
                )
            found[name] = facts["sha256"], facts["bytes"]
    return found


def check_export(folder: str | Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare an export's files with the hashes in its ``explainer.json``, and return what that
    says.

    Args:
        folder: The export.
        names: Files to check; by default all.

    Raises:
        InputError: A file is missing, or changed since it was exported.

    Example:
        >>> from lit_iba.export import check_export
        >>> check_export("runs/exported")["explainer"]["name"]
        'readout_iba'
    """
    folder, description = Path(folder), read_description(folder)
    recorded_files(description, folder / METADATA_FILE)
    for name in description["files"] if names is None else names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing; export it with --format {Path(name).suffix[1:]} into"
                " this folder"
            )
        if not is_whole(folder, description, name):
            raise InputError(
                f"{folder / name} is not the file that was exported (its sha256 differs); export it"
                " again"
            )
    return description


def read_exported(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an export says of its explainer, and the tensors of its network.

    Args:
        path: The export's folder, or its ``explainer.safetensors``.

    Raises:
        InputError: The file is missing, damaged or changed.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TENSORS_FILE
        check_export(path.parent, [path.name])
    elif (path.parent / METADATA_FILE).is_file():
        check_export(path.parent, [path.name])
    if not path.is_file():
        raise InputError(
            f"exported explainer {path} does not exist; give the folder or explainer.safetensors of"
            " an export"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            embedded = (file.metadata() or {}).get(METADATA_KEY, "null")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is no safetensors file, or damaged ({error}); export the explainer again"
        ) from error
    return check_description(embedded, path, embedded=True), state


def classifier_of_export(
    description: dict[str, Any], path: str | Path, classifier: FrozenClassifier | None
) -> FrozenClassifier:
    """The classifier that an export belongs to: built from its record, or the one given,
    checked.

    Raises:
        InputError: It cannot be built, or is another one.
    """
    exported = description["classifier"]
    preprocessing = Preprocessing.from_dict(description["preprocessing"])
    if classifier is None:
        if exported["record"] is None:
            raise InputError(
                f"{path} was exported for a module of your own ({exported['model']}), which cannot"
                " be built by name; give load_exported your FrozenClassifier"
            )
        with entries_of(path, what="export"):
            classifier = recorded_classifier(
                exported["record"],
                path,
                preprocessing=preprocessing,
                class_names=description["class_names"],
            )
    classifier.check_identity(exported, str(path))
    if classifier.preprocessing != preprocessing:
        raise InputError(
            f"{path} was exported for {preprocessing}, but the classifier has"
            f" {classifier.preprocessing}; give the classifier the export's preprocessing"
        )
    return classifier

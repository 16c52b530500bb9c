"""Reading an export of a trained explainer: its ``explainer.json``, checked; its tensors; and the
classifier that it belongs to.

Files that changed since they were exported are refused, and so are classifiers that the explainer
was not trained for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from lit_iba.classifier import FrozenClassifier, recorded_classifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError
from lit_iba.files import read_text, sha256_of

SCHEMA, KIND = 1, "lit_iba.exported_explainer"
METADATA_KEY = "lit_iba"  # of ONNX's metadata_props and of safetensors' metadata
METADATA_FILE = "explainer.json"  # beside the files, and among the extra files inside a .pt2
TENSORS_FILE = "explainer.safetensors"


def is_export(path: str | Path) -> bool:
    """Whether a path is that of an export, and not of a checkpoint."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors"


def is_whole(folder: Path, description: dict[str, Any], name: str) -> bool:
    """Whether a file of the export is there and has the hash that the description states."""
    path = folder / name
    return path.is_file() and sha256_of(path) == description["files"].get(name, {}).get("sha256")


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


def check_description(text: str, path: str | Path) -> dict[str, Any]:
    """The content of an ``explainer.json``, given its text and where that comes from.

    Raises:
        InputError: As :func:`read_description`.
    """
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); export the explainer again") from error
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
    return description


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
    return check_description(embedded, path), state


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

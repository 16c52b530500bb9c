"""The artefact of an export: what ``explainer.json`` says about its files, checked, and the
explainer loaded back from it.

Reading refuses files that changed since they were exported, and classifiers that the explainer was
not trained for.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors

import lit_iba
from lit_iba.classifier import FrozenClassifier, recorded_classifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.weights import fingerprint
from lit_iba.errors import InputError
from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.export.card import CARD_FILE
from lit_iba.export.program import METADATA_FILE, METADATA_KEY
from lit_iba.export.readme import README_FILE
from lit_iba.files import read_text, sha256_of
from lit_iba.training.trained_explainer import TrainedExplainer

SCHEMA, KIND = 1, "lit_iba.exported_explainer"
FILES = ("explainer.pt2", "explainer.onnx", "explainer.onnx.data", "explainer.safetensors")
DOCUMENTS = (README_FILE, CARD_FILE)
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "safetensors")


def plain_values(values: Any) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(values, default=str))


def describe(
    explainer: TrainedExplainer,
    checkpoint: dict[str, Any] | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """What every file of an export carries: the contract of the program, and how to rebuild the
    explainer.
    """
    classifier, size = explainer.classifier, explainer.classifier.preprocessing.size
    record = {
        "model": classifier.name,
        "weights": classifier.weights,
        "num_classes": classifier.output_shape[0] if classifier.output_shape else 1,
        **classifier.given,
    }
    cls = type(explainer)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "explainer": {
            "name": cls.name,
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "settings": plain_values(explainer.record),
            "sha256": fingerprint(explainer.trained),
        },
        "classifier": {
            **classifier.identity,
            "record": (
                # A module of the user's own has no name, nor has an objective that is no name.
                None if classifier.weights == "as given" or None in record.values() else record
            ),
        },
        "preprocessing": classifier.preprocessing.to_dict(),
        "input": {
            "name": "images",
            "shape": ["batch", classifier.channels, *size],
            "dtype": "float32",
            "meaning": (
                f"{'RGB ' if classifier.channels == 3 else ''}pictures, resized and cropped as in"
                " 'preprocessing', divided by 255, then (x - mean) / std per"
                " channel; the batch size is free, the picture's size is fixed"
            ),
        },
        "outputs": [
            {
                "name": o.name,
                "shape": ["batch", *size],
                "dtype": "float32",
                "unit": o.unit,
                "meaning": o.meaning,
            }
            for o in explainer.outputs
        ],
        "class_names": list(classifier.class_names),
        "checkpoint": plain_values(checkpoint) if checkpoint else None,
        "license": license,
        "packages": {
            "python": platform.python_version(),
            "lit_iba": lit_iba.__version__,
            **_versions(),
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def as_text(description: dict[str, Any]) -> str:
    """The content of an ``explainer.json``."""
    return json.dumps(description, indent=1, ensure_ascii=False) + "\n"


def hashes(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """SHA-256 and size in bytes of files, by name."""
    paths = {name: folder / name for name in names}
    return {
        n: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for n, path in paths.items()
    }


def check_folder(folder: Path) -> None:
    """Refuse a folder in which other things than an export live."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the export")
    if (folder / METADATA_FILE).exists():
        read_description(folder)
    elif (folder / README_FILE).exists():
        raise InputError(
            f"{folder} has a README.md of something else; give the export a folder of its own"
        )


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


def load_exported(path: str | Path, classifier: FrozenClassifier | None = None) -> Any:
    """A trained explainer, such as :class:`ReadoutIBA`, from an export's ``.safetensors``.

    Args:
        path: The export's folder, or its ``explainer.safetensors``.
        classifier: The classifier that it was trained for; built from the export's own record where
            None.

    Raises:
        InputError: The file is missing, damaged or changed, or the classifier is another one.

    Example:
        >>> from lit_iba.export import load_exported
        >>> load_exported("runs/exported").attribute(images).values.shape
        torch.Size([2, 64, 64])
    """
    path = Path(path)
    if path.is_dir():
        path = path / "explainer.safetensors"
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
    description = check_description(embedded, path)
    name = description["explainer"]["name"]
    found = explainer_class(name) if name in EXPLAINERS else None
    if found is None or not issubclass(found, TrainedExplainer):
        raise InputError(
            f"{path} holds an explainer {name!r} that this lit_iba does not know; update it"
        )
    classifier = _classifier_for(description, path, classifier)
    explainer = found.rebuild(classifier, description["explainer"]["settings"], state, str(path))
    if fingerprint(explainer.trained) != description["explainer"]["sha256"]:
        raise InputError(
            f"the tensors in {path} are not those that were exported (their sha256 differs); export"
            " it again"
        )
    return explainer


def _classifier_for(
    description: dict[str, Any], path: Path, classifier: FrozenClassifier | None
) -> FrozenClassifier:
    """The classifier that an export belongs to: built from its record, or the one given,
    checked.
    """
    exported, preprocessing = (
        description["classifier"],
        Preprocessing.from_dict(description["preprocessing"]),
    )
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

"""The artefact of an export: what ``explainer.json`` says about its files, and the explainer loaded
back from it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import lit_iba
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import fingerprint
from lit_iba.errors import InputError
from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.files import sha256_of
from lit_iba.training.exported import (
    KIND,
    METADATA_FILE,
    README_FILE,
    SCHEMA,
    read_description,
    read_exported,
)
from lit_iba.training.exported import check_export as check_export
from lit_iba.training.trained_explainer import TrainedExplainer

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
    description, _ = read_exported(path)
    name = description["explainer"]["name"]
    found = explainer_class(name) if name in EXPLAINERS else None
    if found is None or not issubclass(found, TrainedExplainer):
        raise InputError(
            f"{path} holds an explainer {name!r} that this lit_iba does not know; update it"
        )
    return found.of_export(path, classifier)

"""The trained explainers that come with the package: exports, a folder each, in
``shipped_explainers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_iba.classifier import FrozenClassifier
from lit_iba.training.exported import METADATA_FILE, hash_of_explainer, read_description

FOLDER = Path(__file__).parent / "shipped_explainers"


def shipped(explainer: str, classifier: FrozenClassifier) -> Path | None:
    """The export that comes with the package for a classifier of these very weights; None where
    none does.

    Args:
        explainer: Name of the explainer.
        classifier: What it is to explain.

    Example:
        >>> from lit_iba.training.shipped import shipped
        >>> shipped("readout_iba", classifier) is None  # a small network of no name
        True
    """
    own = classifier.identity["sha256"]
    found = [
        folder
        for folder, description in _exports(explainer)
        if description["classifier"]["sha256"] == own
    ]
    return found[0] if found else None


def shipped_classifiers(explainer: str) -> list[str]:
    """Names of the classifiers that an explainer comes trained for."""
    return [description["classifier"]["model"] for _, description in _exports(explainer)]


def shipped_hashes(explainer: str) -> dict[str, str]:
    """SHA-256 of what the maps of each of them follow from, by folder."""
    return {folder.name: hash_of_explainer(said) for folder, said in _exports(explainer)}


def _exports(explainer: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(FOLDER.glob(f"*/{METADATA_FILE}")):
        description = read_description(path.parent)
        if description["explainer"]["name"] == explainer:
            yield path.parent, description

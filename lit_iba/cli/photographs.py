"""What commands about single photographs share: opening them, naming them, and the class to
explain.
"""

from __future__ import annotations

from pathlib import Path

from PIL import ImageOps
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.photograph import Photograph
from lit_iba.data.decode import ARRAY, read_picture, whole_number
from lit_iba.data.examples import EXAMPLES, example_photograph
from lit_iba.errors import InputError, unknown_name


def open_photograph(path: Path, channels: int) -> Photograph:
    """A photograph with a classifier's channels, turned upright as its camera noted (EXIF
    orientation); or a ``.npy``.

    A name of ``EXAMPLES`` stands for a photograph that an installed package brings.
    Shards, in contrast, ignore that note, as ImageNet's own pipelines do.

    Raises:
        InputError: The file is missing or damaged, or has other channels.
    """
    if not path.is_file():
        example = example_photograph(str(path))
        if example is None:
            raise InputError(
                f"photograph {path} does not exist; check the path, or try one of the examples "
                f"({', '.join(EXAMPLES)}; they come with pip install 'lit_iba[photographs]')"
            )
        path = example
    kind = ARRAY if path.suffix.lower() == f".{ARRAY}" else ""
    stored = read_picture(path.read_bytes(), kind, str(path))
    return Photograph.of(stored, channels, str(path)).turned(ImageOps.exif_transpose)


def load_picture(path: Path, classifier: FrozenClassifier) -> Tensor:
    """A photograph as the classifier's picture, uint8 (C, H, W).

    Raises:
        InputError: The file is missing or damaged, or has other channels.
    """
    return classifier.preprocessing.picture(open_photograph(path, classifier.channels))


def distinct_stems(paths: list[Path]) -> list[str]:
    """File names without suffix; with their folder in front where two are the same."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}_{i}"
        for i, (stem, path) in enumerate(zip(stems, paths, strict=True))
    ]


def asked_target(target: str, classifier: FrozenClassifier) -> int | float:
    """What a command's ``target`` asks for: a class by name or index, or a number.

    Raises:
        InputError: It is none.
    """
    if classifier.num_classes:
        return class_index(target, classifier)
    try:
        return float(target)
    except ValueError as error:
        raise InputError(
            f"target is {target!r}, but the objective {classifier.objective.record['name']!r} "
            "needs a number; leave it out for what the network says itself"
        ) from error


def class_index(target: str, classifier: FrozenClassifier) -> int:
    """A class by name or index; a name goes first, where classes are called by other numbers.

    Raises:
        InputError: There is none such.
    """
    if target in classifier.class_names:
        return classifier.class_names.index(target)
    index = whole_number(target)
    if index is not None:
        if not 0 <= index < classifier.num_classes:
            raise InputError(
                f"target class {index} is out of range; "
                f"the classifier has classes 0..{classifier.num_classes - 1}"
            )
        return index
    raise unknown_name(f"class of {classifier.name}", target, classifier.class_names)

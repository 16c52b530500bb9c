"""Reviews with a label each, from the folders of aclImdb (Maas et al., ACL 2011) or from a file of
JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_iba.errors import InputError, shown
from lit_iba.files import read_text
from lit_iba.limits import limit
from lit_iba.text.vocabulary import tokenize
from lit_iba.text.words import check_whole

CLASS_NAMES = ["negative", "positive"]


def class_names_for(classes: int, given: Sequence[str] | None = None) -> list[str]:
    """A name a class: those given; else negative and positive, or of more classes their numbers.

    Raises:
        InputError: Names are given, but not one a class.
    """
    if given:
        if len(given) != classes:
            raise InputError(
                f"{len(given)} class names were given for {classes} classes; give one a class"
            )
        return list(given)
    return CLASS_NAMES if classes == len(CLASS_NAMES) else [str(i) for i in range(classes)]


@dataclass(frozen=True)
class Review:
    """One text; of two classes, label 0 is negative, 1 positive.

    Example:
        >>> from lit_iba.text import read_reviews
        >>> review = read_reviews("reviews.jsonl")[0]
        >>> review.text, review.label
        ('A great film.', 1)
    """

    key: str
    label: int
    text: str


def read_reviews(path: str | Path, classes: int | None = len(CLASS_NAMES)) -> list[Review]:
    """All reviews of a split, in the order of the file, or of the file names.

    Args:
        path: A folder with ``pos/*.txt`` and ``neg/*.txt``, such as ``aclImdb/train``, or a
            ``.jsonl`` file with ``text``, ``label`` (0 or 1, or of more classes) and, if wanted,
            ``id`` in each line.
        classes: Number of classes; None takes any label from 0.

    Raises:
        InputError: There is nothing, a line is broken (its number is named), or a text has no
            words.

    Example:
        >>> from lit_iba.text import read_reviews
        >>> len(read_reviews("reviews.jsonl"))
        4
    """
    path = Path(path)
    if path.is_dir():
        reviews = _of_folder(path)
    elif path.is_file():
        lines = read_text(path, "reviews").split("\n")
        reviews = [
            _of_line(line, f"{path}:{n}", classes)
            for n, line in enumerate(lines, start=1)
            if line.strip()
        ]
    else:
        raise InputError(
            f"reviews {path} do not exist; give a folder with pos/ and neg/, or a .jsonl file"
        )
    if not reviews:
        raise InputError(
            f"{path} holds no reviews; give a folder with pos/*.txt and neg/*.txt, or a .jsonl file"
        )
    for review in reviews:
        if not tokenize(review.text):
            raise InputError(f"review {review.key} has no words; remove it")
    if len({review.key for review in reviews}) < len(reviews):
        raise InputError(f"{path} names two reviews alike; give each line an id of its own")
    return reviews


def _of_folder(path: Path) -> list[Review]:
    names = [(path / name, label) for label, name in enumerate(("neg", "pos"))]
    for folder, _ in names:
        if not folder.is_dir():
            raise InputError(f"{path} has no folder {folder.name}/; give one such as aclImdb/train")
    files = [(file, label) for folder, label in names for file in sorted(folder.glob("*.txt"))]
    return [
        Review(shown(f"{f.parent.name}/{f.stem}"), label, read_text(f, "reviews"))
        for f, label in files
    ]


def _of_line(line: str, where: str, classes: int | None) -> Review:
    try:
        found = json.loads(line)
        text, label = found["text"], found["label"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where} is no review ({error}); a line is a JSON object with text and label"
        ) from error
    most = limit("CLASSES") if classes is None else classes
    number = type(label) is int or (isinstance(label, float) and label.is_integer())
    if not isinstance(text, str) or not number or not 0 <= label < most:
        labels = "0 or 1" if classes == 2 else f"0 to {most - 1}"
        raise InputError(
            f"{where} has label {label!r} and a {type(text).__name__} as text; label is {labels},"
            " text a string"
        )
    check_whole(text, f"the text in {where}")
    # The key is printed, and stands in reports.
    return Review(shown(str(found.get("id", where))), int(label), text)

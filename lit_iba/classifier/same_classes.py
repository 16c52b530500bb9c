"""Whether the labels of data are the classes of a classifier: numbers fit whatever they mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lit_iba.errors import InputError

logger = logging.getLogger(__name__)


def check_same_classes(
    data: Sequence[str] | None, classifier: Sequence[str], source: str, mend: str
) -> None:
    """Compare class names, where both sides have some.

    Names that only one side knows say nothing: data of ImageNet is often named by synsets.

    Args:
        data: Names of the data's classes in the order of their labels.
        classifier: Those of the classifier.
        source: What to call the data.
        mend: What else than other labels would help.

    Raises:
        InputError: A class of the data is another one of the classifier's.

    Example:
        >>> from lit_iba.classifier.same_classes import check_same_classes
        >>> check_same_classes(["cat", "dog"], ["cat", "dog", "car"], "pets", "")
        >>> check_same_classes(["dog", "cat"], ["cat", "dog", "car"], "pets", "")
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: label 0 of pets is 'dog', but class 0 of the classifier is...
    """
    if not data or not classifier:
        return
    known = {_plain(name) for name in classifier}
    for label, name in enumerate(data):
        there = classifier[label] if label < len(classifier) else None
        if _plain(name) in known and (there is None or _plain(there) != _plain(name)):
            found = f"is {there!r}" if there is not None else "does not exist"
            raise InputError(
                f"label {label} of {source} is {name!r}, but class {label} of the classifier"
                f" {found}; write the data with the classifier's numbers{mend}"
            )
    if len(data) != len(classifier) and not known.intersection(map(_plain, data)):
        logger.warning(
            "%s has %d classes (%s ...) and the classifier %d (%s ...); labels are taken for the"
            " classifier's numbers",
            source,
            len(data),
            data[0],
            len(classifier),
            classifier[0],
        )


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()

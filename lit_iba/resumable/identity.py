"""What stored results depend on beside their data: the explainer's class and settings, files and
code of the user's own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_iba.classifier import FrozenClassifier
from lit_iba.explainer import explainer_class
from lit_iba.files import sha256_of, sha256_of_content

NOT_THE_USERS = ("lit_iba", "torch", "torchvision", "timm", "builtins")


class Recorded:
    """Something that hands out files and data, and can say which."""

    _used: dict[str, str]

    @contextmanager
    def recorded(self) -> Iterator[dict[str, str]]:
        """What is handed out inside, by its name: hashes of files, and of data."""
        self._used = {}
        yield self._used
        self._used = {}


def explainer_identity(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Class and settings of an explainer, with the content of the files (checkpoints) that the
    settings name.

    Example:
        >>> from lit_iba.resumable import explainer_identity
        >>> explainer_identity("saliency", {})["class"]
        'saliency'
    """
    cls = explainer_class(name)
    files = {**hashes_of_files(settings), **cls.content(settings)}
    return {"class": name, "settings": settings, "files": files, **source_of(cls)}


def classifier_identity(classifier: FrozenClassifier) -> dict[str, Any]:
    """What the classifier is, with the files that a network of the user's own is written in: code
    may change while weights do not.

    Example:
        >>> from lit_iba.resumable import classifier_identity
        >>> sorted(classifier_identity(classifier))
        ['model', 'sha256', 'weights']
    """
    found = dict(classifier.identity)
    module, _, function = classifier.name.partition(":")
    makers = [getattr(sys.modules.get(module), function, None)] if function else []
    sources = [
        _source(maker) for maker in [*makers, type(classifier.model), *classifier.objective.code]
    ]
    if known := list(dict.fromkeys(source for source in sources if source)):
        found["source"] = known
    return found


def source_of(cls: type) -> dict[str, str]:
    """The content of the file that a class of the user's own stands in, so that edited code is run
    again.
    """
    source = _source(cls)
    return {"source": source} if source else {}


def _source(maker: Any) -> str | None:
    """SHA-256 of the file that a class or function of the user's own stands in."""
    if str(getattr(maker, "__module__", "")).partition(".")[0] in NOT_THE_USERS:
        return None
    try:
        return sha256_of(inspect.getfile(inspect.unwrap(maker)))
    except (TypeError, OSError):
        return None


def hashes_of_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of what the files say that settings name."""
    return {
        k: sha256_of_content(v)
        for k, v in settings.items()
        if isinstance(v, str | Path) and Path(v).is_file()
    }

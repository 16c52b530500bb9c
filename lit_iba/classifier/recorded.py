"""The classifier that a file names: a checkpoint's record or an export's, which may come from
anybody. Names are looked up, never imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_iba.classifier.frozen import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.objectives.base import named_settings

_ENTRIES = {
    "model",
    "weights",
    "num_classes",
    "preprocessing",
    "class_names",
    "layouts",
    "objective",
    "output",
}


def recorded_classifier(record: object, source: str | Path, **settings: Any) -> FrozenClassifier:
    """Build a classifier from the keyword arguments that a file keeps of it.

    Args:
        record: What the file says: ``model``, ``weights`` and what else
            :class:`FrozenClassifier` takes.
        source: The file, for errors.
        settings: Further keyword arguments, which win.

    Raises:
        InputError: The record is none, names a function (which only the user may have called, by
            naming it), or the classifier cannot be built.

    Example:
        >>> from lit_iba.classifier import recorded_classifier
        >>> recorded_classifier({"model": "os:abort", "weights": "random"}, "got.ckpt")
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: got.ckpt names a function, 'os:abort', as its classifier...
    """
    model = record.get("model") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(model, str) or record.keys() - _ENTRIES:
        raise InputError(
            f"{source} does not say which classifier it belongs to (its record is"
            f" {str(record)[:80]!r}); name it yourself, as --classifier.model and"
            " --classifier.weights"
        )
    if ":" in model:
        raise InputError(
            f"{source} names a function, {model!r}, as its classifier, and a file's functions are"
            " not run; if you trust it, name it yourself, as --classifier.model and"
            " --classifier.weights, or as FrozenClassifier(...)"
        )
    objective = record.get("objective", "classification")
    if not isinstance(objective, str | dict):
        raise InputError(f"{source} has {objective!r} as its classifier's objective, which is none")
    named = [*named_settings(objective).values()]
    if "objective" not in settings and any(isinstance(n, str) and _is_code(n) for n in named):
        raise InputError(
            f"{source} names code, {named}, as its classifier's objective, and a file's functions "
            "are not run; if you trust it, name the objective yourself, as "
            "FrozenClassifier(..., objective=...)"
        )
    try:
        return FrozenClassifier(**{**record, **settings})
    except (InputError, TypeError, AttributeError) as error:
        raise InputError(f"{source} needs its classifier {record}: {error}") from error


def _is_code(name: str) -> bool:
    """Whether a name would be imported: ``package.module:function`` or ``package.Class``."""
    return ":" in name or ("." in name and Path(name).suffix != ".npy")

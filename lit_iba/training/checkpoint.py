"""Reading a training checkpoint: what was trained, how to rebuild the rest, and clear words where
that fails.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from lit_iba.classifier import FrozenClassifier, recorded_classifier
from lit_iba.errors import InputError
from lit_iba.limits import check_zip

_log = logging.getLogger(__name__)

KIND_KEY, CLASSIFIER_KEY = "lit_iba_kind", "lit_iba_classifier"


@contextmanager
def entries_of(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    what: Literal["checkpoint", "export"] = "checkpoint",
) -> Iterator[None]:
    """Around whatever reads a checkpoint's entries, or an export's: they may be missing, or other
    than training, or an export, writes them.

    Args:
        path: Of the checkpoint or export.
        settings: What else is used within; where there is any, a ``TypeError`` may be about it, and
            is left to the caller.
        what: Which of the two it is.

    Raises:
        InputError: In place of what reading such entries leads to.

    Example:
        >>> from lit_iba.training.checkpoint import entries_of
        >>> with entries_of("last.ckpt"):
        ...     {"epoch": 3}["state_dict"]
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: checkpoint last.ckpt has no entry 'state_dict'...
    """
    writer, again = {
        "checkpoint": ("training", "train again"),
        "export": ("an export", "export the explainer again"),
    }[what]
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f"{what} {path} has no entry {error}, which {writer} writes; give another one, or"
            f" {again}"
        ) from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:
        if settings and isinstance(e, TypeError):
            raise
        reason = " ".join(str(e).split())
        raise InputError(
            f"{what} {path} has entries that {writer} does not write ({reason[:200]}); give"
            f" another one, or {again}"
        ) from e


def read_checkpoint(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Load a checkpoint without running code from it, after checking every byte against its
    checksums.

    Args:
        path: A ``.ckpt`` file written by one of this project's LightningModules.
        kind: Name of the LightningModule that must have written it; None for any.

    Raises:
        InputError: The file is missing, cut short, changed, needs code to load, or belongs to
            another class.

    Example:
        >>> from lit_iba.training import read_checkpoint
        >>> read_checkpoint("runs/readout/last.ckpt", kind="ReadoutTraining")["global_step"]
        1
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"checkpoint {path} does not exist; give the path of a .ckpt file that training wrote"
        )
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(
                f"checkpoint {path} is damaged (in {damaged}); use an older one, or train again"
            )
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} needs code to load and is refused; it was not written by lit_iba"
        ) from error
    except Exception as error:  # a pickle of any bytes can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"checkpoint {path} is damaged or cut short ({reason}); use an older one, or train"
            " again"
        ) from error
    written_by = checkpoint.get(KIND_KEY) if isinstance(checkpoint, dict) else None
    if written_by is None or (kind is not None and written_by != kind):
        raise InputError(
            f"checkpoint {path} was written by {written_by or 'another program'}, not by"
            f" {kind or 'lit_iba'}; give another"
        )
    with entries_of(path):
        for name, value in checkpoint.get("state_dict", {}).items():
            if value.is_floating_point() and not value.isfinite().all():
                raise InputError(
                    f"checkpoint {path} has values in {name!r} that are not finite; use an older"
                    " one, or train again"
                )
    return checkpoint


_RESUMED = (
    "state_dict",
    "loops",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "epoch",
    "global_step",
)


def check_resumable(path: str | Path, kind: str) -> None:
    """Refuse a checkpoint that a training cannot go on from, before anything is written.

    Args:
        path: The checkpoint.
        kind: Name of the LightningModule that goes on.

    Raises:
        InputError: It is missing, damaged, or lacks what Lightning restores.
    """
    checkpoint = read_checkpoint(path, kind)
    with entries_of(path):
        for name in _RESUMED:
            checkpoint[name]
        if checkpoint[KIND_KEY] != "SentimentTraining":
            checkpoint[CLASSIFIER_KEY]["sha256"]


def classifier_of(checkpoint: dict[str, Any], path: str | Path) -> FrozenClassifier:
    """The classifier a checkpoint was trained for, built again from its record and checked.

    Raises:
        InputError: It cannot be built (its weights file has moved, say), has other weights now, or
            is a function of the user's own, which the user must name: a file's is not run.

    Example:
        >>> from lit_iba.training import classifier_of, read_checkpoint
        >>> checkpoint = read_checkpoint("runs/readout/last.ckpt")
        >>> classifier_of(checkpoint, "runs/readout/last.ckpt").name
        'small_cnn'
    """
    settings = checkpoint.get("hyper_parameters")
    record = settings.get("classifier") if isinstance(settings, dict) else None
    classifier = recorded_classifier(record, path)
    with entries_of(path):
        classifier.check_identity(checkpoint[CLASSIFIER_KEY], f"checkpoint {path}")
    return classifier


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The whole checkpoint of a folder that is furthest on; None if there is no checkpoint at all.

    Damaged files are passed over with a warning, so that a run does not end because of its last
    seconds.

    Raises:
        InputError: There are checkpoints, but none is whole.

    Example:
        >>> from lit_iba.training import newest_checkpoint
        >>> newest_checkpoint("runs/readout").name
        'last.ckpt'
    """
    whole: list[tuple[int, float, Path]] = []
    damaged: list[str] = []
    for path in sorted(Path(folder).glob("*.ckpt")):
        try:
            whole.append((int(read_checkpoint(path)["global_step"]), path.stat().st_mtime, path))
        except InputError as error:
            damaged.append(str(error))
    if not whole and damaged:
        raise InputError(damaged[0])
    if not whole:
        return None
    step, _, newest = max(whole)
    for reason in damaged:
        _log.warning("%s; going on from %s (step %d)", reason, newest, step)
    return newest

"""The classifier that a command names, on the device that it names."""

from __future__ import annotations

from typing import Any

import torch

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.training.checkpoint import classifier_of, read_checkpoint


def device_named(name: str) -> str:
    """A device's name; ``"auto"`` means the GPU where there is one.

    Raises:
        InputError: There is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"device is {name!r}, which this machine does not have ({reason}); give auto, cpu or"
            " cuda"
        ) from error


def classifier_from(
    record: dict[str, Any] | None, settings: dict[str, Any] | None, device: str
) -> FrozenClassifier:
    """The classifier that a command names, or the one that a checkpoint among the settings was
    trained for.
    """
    if record is None:
        checkpoint = (settings or {}).get("checkpoint")
        if checkpoint is None:
            raise InputError(
                "name the classifier: --classifier.model resnet50 --classifier.weights DEFAULT (or"
                " a file)"
            )
        return classifier_of(read_checkpoint(checkpoint), checkpoint).to(device_named(device))
    try:
        return FrozenClassifier(**record).to(device_named(device))
    except TypeError as error:
        raise InputError(
            f"classifier {record}: {error}; it takes model, weights, num_classes,"
            " preprocessing, class_names, layouts, objective, output"
        ) from error

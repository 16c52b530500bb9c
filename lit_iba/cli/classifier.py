"""The classifier that a command names."""

from __future__ import annotations

from typing import Any

from lit_iba.checks import check_taken
from lit_iba.classifier import FrozenClassifier
from lit_iba.cli.devices import device_named
from lit_iba.errors import InputError
from lit_iba.training.checkpoint import classifier_of, read_checkpoint
from lit_iba.training.exported import classifier_of_export, is_export, read_exported


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
        if is_export(checkpoint):
            found = classifier_of_export(read_exported(checkpoint)[0], checkpoint, None)
        else:
            found = classifier_of(read_checkpoint(checkpoint), checkpoint)
        return found.to(device_named(device))
    check_taken(FrozenClassifier.__init__, record, "classifier")
    try:
        return FrozenClassifier(**record).to(device_named(device))
    except TypeError as error:
        raise InputError(
            f"classifier {record}: {error}; it takes model, weights, num_classes,"
            " preprocessing, class_names, layouts, objective, output"
        ) from error

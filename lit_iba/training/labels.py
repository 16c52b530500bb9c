"""The labels of a batch that is trained or validated on."""

from __future__ import annotations

from typing import Any

import torch

from lit_iba.errors import InputError


def check_labels(batch: dict[str, Any], classes: int, mend: str = "") -> None:
    """Refuse a batch in which a sample has no label, or one that the network does not know.

    Ask before the batch is on a device, where the host would wait for the answer.

    Args:
        batch: Of a data module; slots with weight 0 are empty, and have no label.
        classes: How many the network knows; 0 where it knows no classes, but numbers.
        mend: What else than giving labels would help, for the error.

    Raises:
        InputError: There is such a sample.

    Example:
        >>> import torch
        >>> from lit_iba.training.labels import check_labels
        >>> batch = {"label": torch.tensor([2, -1]), "weight": torch.tensor([1.0, 0.0])}
        >>> check_labels(batch, classes=3)
        >>> check_labels({**batch, "weight": torch.ones(2), "key": ["dog", "cat"]}, classes=3)
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: sample 'cat' has no label; give data with labels...
    """
    labels, there = batch["label"], batch["weight"] > 0
    wrong = there & ((labels < 0) | (labels >= (classes or torch.inf)))
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        key, label = batch["key"][place], int(labels[place])
        if label < 0:
            raise InputError(
                f"sample {key!r} has no label; give data with labels (such as .cls members)" + mend
            )
        raise InputError(
            f"sample {key!r} has label {label}, but the network knows 0..{classes - 1}; give data"
            f" with its classes{mend}"
        )

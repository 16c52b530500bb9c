"""The labels of a batch that is trained or validated on."""

from __future__ import annotations

from typing import Any

from lit_iba.checks import check_labels


def check_batch_labels(batch: dict[str, Any], classes: int, mend: str = "") -> None:
    """Refuse a batch in which a sample has no label, or one that the network does not know.

    Args:
        batch: Of a data module; slots with weight 0 are empty, and have no label.
        classes: How many the network knows; 0 where it knows no classes, but numbers.
        mend: What else than giving labels would help, for the error.

    Raises:
        InputError: There is such a sample; see :func:`lit_iba.checks.check_labels`.
    """
    there = batch["weight"] > 0
    names = [name for name, real in zip(batch["key"], there.tolist(), strict=True) if real]
    check_labels(batch["label"][there], names, classes, mend=mend)

"""A run that is refused leaves nothing behind: what it wrote before the refusal is taken back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_iba.cli.sentences import as_sentence

# Folders whose files took work, which a run that goes on later does not do again.
RESULTS = ("heatmaps", "rows", "cells", "measured", "classifiers", "checkpoints")


@contextmanager
def nothing_left_behind(folder: Path, everywhere: bool = False) -> Iterator[None]:
    """If what is done within is refused before there are results, delete what it has written.

    Of several processes, the first one does so.

    Args:
        folder: What is written to. If there were files in it before, it is left as it is:
            somebody else may be writing.
        everywhere: Whether to take back new files from among older ones, too; for the holder of
            the folder's lock.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    before = set(folder.rglob("*"))
    try:
        yield
    except Exception as error:
        first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
        alone = everywhere or not any(path.is_file() for path in before)
        if first and alone and as_sentence(error) is not None:
            _take_back(folder, before, missing)
        raise


def _take_back(folder: Path, before: set[Path], missing: list[Path]) -> None:
    new = sorted(set(folder.rglob("*")) - before, reverse=True)  # what is inside comes first
    if any(path.is_file() and is_result(path.relative_to(folder)) for path in new):
        return
    for path in new:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    for place in missing:
        if place.is_dir():
            place.rmdir()


def is_result(path: Path) -> bool:
    """Whether a file, by its path within a run's folder, took work."""
    return any(part in RESULTS for part in path.parts[:-1])

"""A run that is refused leaves nothing behind: what it wrote before the refusal is taken back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_iba.cli.sentences import as_sentence

# Folders whose files took work, which a run that goes on later does not do again.
RESULTS = ("heatmaps", "rows", "cells", "measured", "classifiers", "checkpoints")
TOLD_OF = "not_finite_rank*.json"


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
    before = _seen(folder)
    try:
        yield
    except Exception as error:
        first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
        alone = everywhere or all(state is None for state in before.values())
        if first and alone and as_sentence(error) is not None:
            _take_back(folder, before, missing)
        raise


def _seen(folder: Path) -> dict[Path, tuple[int, int] | None]:
    """Every file and folder, a file with what tells when it was written."""
    return {
        path: (state.st_mtime_ns, state.st_size) if path.is_file() else None
        for path in folder.rglob("*")
        if path.is_symlink() or (state := path.stat())
    }


def _take_back(
    folder: Path, before: dict[Path, tuple[int, int] | None], missing: list[Path]
) -> None:
    now = _seen(folder)
    # A result may also be an older file that was written again, such as the last checkpoint.
    written = [path for path, state in now.items() if state and state != before.get(path)]
    if any(is_result(path.relative_to(folder)) for path in written):
        return
    new = sorted(now.keys() - before.keys(), reverse=True)  # what is inside comes first
    for path in new:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    for place in missing:
        if place.is_dir():
            place.rmdir()


def is_result(path: Path) -> bool:
    """Whether a file, by its path in a run's folder, took work or is what a refusal tells of."""
    return any(part in RESULTS for part in path.parts[:-1]) or path.match(TOLD_OF)

"""A file appears whole or not at all, and whoever fails to write it names it."""

import errno
from pathlib import Path

import pytest

from lit_iba.files import whole_file


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as part:
            part.write_text("new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_systems_refusal_in_a_librarys_words_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(OSError, match="No space") as refused, whole_file(path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []

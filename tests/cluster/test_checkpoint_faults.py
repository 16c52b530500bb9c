"""Checkpoint files under faults: a full disk, a truncated file, no file."""

import os
import re
from pathlib import Path

import pytest
import torch
from warm import run

from lit_iba.errors import InputError
from lit_iba.files import FolderLock
from lit_iba.training.checkpoint import CLASSIFIER_KEY, KIND_KEY, newest_checkpoint

SAVE = """
import resource, sys, torch
from lit_iba.training.callbacks import DurableCheckpointIO
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a full disk does to a writer
DurableCheckpointIO().save_checkpoint({"weights": torch.zeros(1_000_000)}, sys.argv[1])
"""


def save(path: Path, step: int) -> None:
    torch.save(
        {KIND_KEY: "Toy", CLASSIFIER_KEY: {}, "global_step": step, "x": torch.randn(1000)}, path
    )


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part_of_the_new(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 3)
    before = (tmp_path / "last.ckpt").read_bytes()
    root = str(Path(__file__).parents[2])
    done = run(["-c", SAVE, str(tmp_path / "last.ckpt")], {**os.environ, "PYTHONPATH": root})
    assert done.returncode != 0
    # Not in the last line: triton may have words of its own after an exception.
    whole = r"InputError: .*could not be written.* resume: the one before it is whole"
    assert re.search(whole, done.stderr)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    (tmp_path / "new").mkdir()
    done = run(["-c", SAVE, str(tmp_path / "new/last.ckpt")], {**os.environ, "PYTHONPATH": root})
    assert re.search("InputError: .*start again: there is none before it", done.stderr)


def test_last_falls_back_to_the_newest_whole_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name, step in (("best", 40), ("early", 20), ("last", 60)):
        save(tmp_path / f"{name}.ckpt", step)
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    whole = (tmp_path / "last.ckpt").read_bytes()
    for damaged in (b"", whole[:1000], whole[:-300], whole[:2000] + b"?" + whole[2001:]):
        (tmp_path / "last.ckpt").write_bytes(damaged)
        caplog.clear()
        assert newest_checkpoint(tmp_path) == tmp_path / "best.ckpt"
        assert "last.ckpt" in caplog.text
        assert "going on from" in caplog.text
    for name in ("best", "early"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged or cut short"):
        newest_checkpoint(tmp_path)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(InputError, match=f"another run .process {os.getpid()} on "):
        FolderLock(tmp_path)
    first.release()
    FolderLock(tmp_path).release()

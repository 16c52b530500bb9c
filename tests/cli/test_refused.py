"""What a refused run takes back, and what it leaves."""

from pathlib import Path

import pytest

from lit_iba.cli.refused import nothing_left_behind
from lit_iba.errors import InputError


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("checkpoints/last.ckpt", True),  # older, and written again
        ("checkpoints/new.ckpt", True),
        ("not_finite_rank1.json", True),
        ("config.yaml", False),
        ("other.txt", False),
    ],
)
def test_a_refused_runs_log_stays_where_there_was_work(
    tmp_path: Path, written: str, kept: bool
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/last.ckpt", "config.yaml"):
        (tmp_path / name).write_text("before")

    def refused() -> None:
        (tmp_path / "tensorboard").mkdir()
        (tmp_path / "tensorboard" / "events").write_text("log")
        (tmp_path / written).write_text("written since")
        raise InputError("no")

    with pytest.raises(InputError), nothing_left_behind(tmp_path, everywhere=True):
        refused()
    assert (tmp_path / "tensorboard").exists() == kept
    assert (tmp_path / written).exists() == (kept or written == "config.yaml")

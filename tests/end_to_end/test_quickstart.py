"""``make quickstart`` says one line a step and nothing else, and where a step fails shows why."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def quickstart(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run it with a program in the place of Python, in an environment that counts as installed."""
    (folder / "venv").mkdir()
    (folder / "venv" / ".installed").touch()
    (folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python").chmod(0o755)
    given = [f"VENV={folder / 'venv'}", f"PY={folder / 'python'}", f"RUN={folder / 'run'}"]
    command = ["make", "--no-print-directory", "quickstart", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make is installed")
def test_quickstart_says_a_line_a_step_and_shows_why_one_failed(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    done = quickstart(tmp_path / "good", 'echo "said $1"; echo "a warning" >&2')
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines] == [*(f"{i}/7" for i in range(1, 8)), "don"]
    run = str(tmp_path / "good" / "run")
    assert all(f": {run}/" in line or f"of {run}/" in line for line in lines[:7])  # where to look
    assert (tmp_path / "good" / "run" / "logs" / "5.log").read_text() == (
        "said evaluate.py\na warning\n"
    )

    failed = quickstart(tmp_path / "bad", 'if [ "$2" = export ]; then echo why >&2; exit 3; fi')
    assert failed.returncode != 0
    assert failed.stdout.splitlines()[-2][:3] == "6/7"
    assert failed.stdout.splitlines()[-1] == "why"
    assert "step 6 failed" in failed.stderr

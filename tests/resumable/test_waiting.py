"""Processes that wait for others: for their files, for whoever launched them. Others are really
killed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_iba.errors import InputError
from lit_iba.resumable import Heartbeat, heartbeat

ROOT = Path(__file__).parents[2]
BEATING = """
import sys, time
from lit_iba.resumable import heartbeat
heartbeat.BEAT = 0.05
with heartbeat.Heartbeat(sys.argv[1], 1, 2):
    print("here", flush=True)
    time.sleep(60)
"""
LAUNCHER = """
import os, subprocess, sys, time
from lit_iba.cli import launched
launched.POLL = launched.GRACE = 0.1
with launched.watched_launcher():
    if "LOCAL_RANK" not in os.environ:
        environment = os.environ | {"LOCAL_RANK": "1"}
        subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], env=environment)
    print("here", flush=True)
    time.sleep(60)
"""


def start(*arguments: str) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if "RANK" not in k and "LAUNCHER" not in k}
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_process_does_not_wait_for_files_of_its_own_that_somebody_has_deleted(
    tmp_path: Path,
) -> None:
    with (
        Heartbeat(tmp_path, 0, 1) as company,
        pytest.raises(InputError, match=f"the results of a.tar are no longer in {tmp_path}, where"),
    ):
        company.wait_for(lambda: False, 0, "the results of a.tar")


def test_a_wait_for_a_killed_process_ends_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "PATIENCE", 0.5)
    monkeypatch.setattr(heartbeat, "POLL", 0.02)
    with start(BEATING, str(tmp_path)) as other, Heartbeat(tmp_path, 0, 2) as company:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        late = time.monotonic() + 1.0  # longer than patience, but its process lives
        company.wait_for(lambda: time.monotonic() > late, 1, "a file")
        other.kill()
        other.wait()
        with pytest.raises(InputError, match=rf"process 1 of 2 \(id {other.pid} on .*make a file"):
            company.wait_for(lambda: False, 1, "a file")
        with pytest.raises(InputError, match="never seen"):
            company.wait_for(lambda: False, 2, "a file")


def test_signs_of_life_go_with_the_last_process_and_stay_for_who_waits_for_a_failed_one(
    tmp_path: Path,
) -> None:
    signs = tmp_path / heartbeat.FOLDER
    signs.mkdir()
    (signs / "7").write_text("of a killed run of eight")
    with pytest.raises(InputError), Heartbeat(tmp_path, 1, 2):
        raise InputError("no")
    assert (signs / "1").is_file()
    with Heartbeat(tmp_path, 0, 2), Heartbeat(tmp_path, 1, 2):
        assert {sign.name for sign in signs.iterdir()} == {"0", "1", "7"}
    assert not signs.exists()


def test_a_launched_process_does_not_outlive_its_launcher() -> None:
    with start(LAUNCHER, LAUNCHER) as launcher:
        assert launcher.stdout is not None
        assert [launcher.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        launcher.kill()
        output = launcher.stdout.read()  # ends when the launched one does, whose output it is too
    assert (
        f"process {launcher.pid}, which launched this one (process 1 of the run), is gone" in output
    )

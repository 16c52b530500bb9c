"""What the others of a training's processes do when one of them is killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from cluster_toys import command, prepare, start

from lit_iba.cli.sentences import as_sentence

SAID = "error: the processes of this run have lost each other ("


def test_what_gloo_says_of_a_lost_process_is_one_sentence() -> None:
    said = "[/home/gloo/transport/tcp/pair.cc:545] Read error [::1]:1: reset by peer. GLHF!"
    sentence = str(as_sentence(RuntimeError(said)))
    assert sentence.startswith(
        SAID.removeprefix("error: ") + "Read error [::1]:1: reset by peer): one"
    )


@pytest.mark.slow
def test_who_loses_another_process_says_so_in_one_sentence(tmp_path: Path) -> None:
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    arguments = command(prepare(tmp_path), tmp_path / "run", *two)
    first = start(arguments, STEP_SECONDS="0.3", WATCH=str(tmp_path / "watch"))
    while len(seen := list((tmp_path / "watch").glob("*.txt"))) < 2:
        assert first.poll() is None, first.communicate()[0][-3000:]
        time.sleep(0.1)
    launched = next(int(file.stem) for file in seen if int(file.stem) != first.pid)
    os.kill(launched, signal.SIGKILL)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 2
    assert SAID in output
    assert "Traceback" not in output

"""Runs that are killed, told to stop, moved to other processes or broken: what they end with is
what nothing had cost.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cluster_toys import (
    ROOT,
    SAMPLES,
    assert_same_weights,
    checkpoint,
    command,
    environment,
    finish,
    last_checkpoint,
    prepare,
    samples_taken,
    start,
)
from warm import run_ranks

from lit_iba.files import FolderLock

pytestmark = pytest.mark.slow
RESUME = ("--ckpt_path", "last")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def uninterrupted(config: Path) -> Path:
    """Not started warm, as the others: the order of sets is another than theirs."""
    arguments = command(config, config.parent / "uninterrupted")
    done = subprocess.run(arguments, env=environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return config.parent / "uninterrupted"


def wait_for_steps(watch: Path, steps: int, process: "subprocess.Popen[str]") -> None:
    """Until so many batches were trained on since this was called, by all processes together; or
    the process is gone.
    """

    def lines() -> int:
        return sum(len(file.read_text().splitlines()) for file in watch.glob("*.txt"))

    before, deadline = lines(), time.monotonic() + 120
    while lines() < before + steps and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Until something is so, while the process lives."""
    deadline = time.monotonic() + 120
    while True:
        with suppress(FileNotFoundError):
            if reached():
                return
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    config: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    chance, run, watch, kills = random.Random(5), tmp_path / "run", tmp_path / "watch", 0
    while True:
        process = start(command(config, run, *RESUME), WATCH=str(watch), STEP_SECONDS="0.03")
        if kills < 7:
            wait_for_steps(watch, chance.randint(1, 14), process)
            time.sleep(chance.random() * 0.06)
            process.send_signal(signal.SIGKILL)
            kills += 1
        output, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output[-3000:]
    assert kills >= 3
    assert_same_weights(last_checkpoint(run), last_checkpoint(uninterrupted))


@pytest.mark.parametrize(
    ("name", "status", "method"), [("SIGUSR1", 75, "fork"), ("SIGINT", 130, "forkserver")]
)
def test_a_signal_to_all_saves_the_very_step_and_nothing_is_seen_twice(
    config: Path, uninterrupted: Path, tmp_path: Path, name: str, status: int, method: str
) -> None:
    """SLURM and a terminal signal every process of a group, the loader's workers too."""
    run, watch = tmp_path / "run", tmp_path / "watch"
    workers = ("--data.num_workers", "1", "--data.multiprocessing_context", method)
    process = start(command(config, run, *workers), WATCH=str(watch), STEP_SECONDS="0.05")
    wait_for_steps(watch, 23, process)
    os.killpg(process.pid, getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output[-3000:]
    assert f"ended by {name}" in output
    finish(command(config, run, *RESUME), WATCH=str(watch))
    assert_same_weights(last_checkpoint(run), last_checkpoint(uninterrupted))
    seen = Counter((epoch, key) for _, epoch, key in samples_taken(watch))
    assert len(seen) == 3 * SAMPLES
    assert set(seen.values()) == {1}


def test_a_run_stopped_in_its_last_validation_makes_it_when_it_goes_on(
    config: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run, watch = tmp_path / "run", tmp_path / "watch"
    finish(command(config, run, "--trainer.max_steps", "20"), WATCH=str(watch))
    assert last_checkpoint(run)["global_step"] == 20  # a run that has all its steps saves its end
    process = start(command(config, run, *RESUME), WATCH=str(watch), VALIDATION_SECONDS="0.5")
    end = last_checkpoint(uninterrupted)["global_step"]
    validated = watch / "validating"
    wait_until(lambda: str(end) in validated.read_text().split(), process)
    process.kill()
    process.communicate(timeout=30)
    # Also where all steps are done, so that there is nothing left to train.
    finish(command(config, run, *RESUME, "--trainer.max_steps", str(end)), WATCH=str(watch))
    for name in ("best.ckpt", "last.ckpt"):
        assert_same_weights(checkpoint(run, name), checkpoint(uninterrupted, name))
    seen = Counter((epoch, key) for _, epoch, key in samples_taken(watch))
    assert len(seen) == 3 * SAMPLES
    assert set(seen.values()) == {1}


def test_a_run_may_go_on_with_other_processes(config: Path, tmp_path: Path) -> None:
    """Two processes, then one, then three with a worker each: every epoch sees every sample
    once.
    """
    run, watch = tmp_path / "run", tmp_path / "watch"
    for processes, steps, options in ((2, 10, ()), (1, 9, RESUME)):
        process = start(
            command(config, run, *options, processes=processes),
            WATCH=str(watch),
            STEP_SECONDS="0.1",
        )
        wait_for_steps(watch, steps, process)
        process.terminate()
        output, _ = process.communicate(timeout=90)
        assert process.returncode != 0
        assert "ended by" in output, output[-3000:]
    workers = ("--data.num_workers", "1")  # started by a fork server: a group's threads hold locks
    ddp = ("--trainer.devices", "3", "--trainer.strategy", "ddp", *workers)
    done = run_ranks(command(config, run, *RESUME, *ddp)[1:], environment(WATCH=str(watch)), 3)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = Counter((epoch, key) for _, epoch, key in samples_taken(watch))
    assert len(seen) == 3 * SAMPLES
    assert set(seen.values()) == {1}


def test_torchrun_goes_on_by_itself_when_a_process_dies(config: Path, tmp_path: Path) -> None:
    """What dies takes the other with it, and both begin again where the run was saved."""
    run, watch = tmp_path / "run", tmp_path / "watch"
    script = [str(ROOT / "configs/cluster/torchrun.sh"), "--config", str(config)]
    process = start(
        [*script, "--trainer.default_root_dir", str(run)],
        WATCH=str(watch),
        STEP_SECONDS="0.05",
        PYTHON=sys.executable,
        GPUS="2",
        RDZV_PORT=str(20_000 + os.getpid() % 20_000),
        RESTARTS="1",
    )
    wait_for_steps(watch, 12, process)
    os.kill(int(next(watch.glob("*.txt")).stem), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output[-3000:]
    assert last_checkpoint(run)["global_step"] == 3 * 9
    assert len({(epoch, key) for _, epoch, key in samples_taken(watch)}) == 3 * SAMPLES
    assert len(list(watch.glob("*.txt"))) == 4  # processes


def test_two_processes_step_as_one_with_twice_the_batch(config: Path, tmp_path: Path) -> None:
    options = (
        "--trainer.max_epochs",
        "1",
        "--data.train_samples",
        "8",
        "--data.folder",
        str(tmp_path / "data"),
    )
    finish(command(config, tmp_path / "one", *options, "--data.batch_size", "8"))
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "4")
    done = run_ranks(command(config, tmp_path / "two", *options, *ddp)[1:], environment(), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = last_checkpoint(tmp_path / "one"), last_checkpoint(tmp_path / "two")
    assert one["global_step"] == two["global_step"] == 1
    # Adam's first step has the size of the learning rate whatever the gradient; its moments show
    # the gradient itself.
    moments = [c["optimizer_states"][0]["state"] for c in (one, two)]
    for number, state in moments[0].items():
        expected = pytest.approx(state["exp_avg"].flatten().tolist(), rel=1e-3, abs=1e-9)
        assert moments[1][number]["exp_avg"].flatten().tolist() == expected


def test_a_loss_that_is_no_number_ends_the_run_before_it_harms(
    config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    output = finish(command(config, run), expected=2, NAN_AT="7", WATCH=str(tmp_path / "watch"))
    assert "the loss of step 7 is nan" in output
    keys = {key for step, _, key in samples_taken(tmp_path / "watch") if step == 7}
    found = (run / "not_finite_rank0.json").read_text()
    assert keys
    assert all(key in found for key in keys)
    assert last_checkpoint(run)["global_step"] == 6


def test_a_second_run_in_the_same_folder_is_refused(config: Path, tmp_path: Path) -> None:
    run, watch = tmp_path / "run", tmp_path / "watch"
    part = run / "checkpoints" / ".last.ckpt.123.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"what a run that was killed while it saved has left")
    workers = ("--data.num_workers", "2")
    first = start(command(config, run, *workers), WATCH=str(watch), STEP_SECONDS="0.2")
    wait_for_steps(watch, 1, first)
    assert not part.exists()
    assert "is being written by another run" in finish(command(config, run), expected=2)
    first.kill()
    first.wait(timeout=30)
    time.sleep(1)
    FolderLock(run).release()  # no worker holds it any more
    first.communicate(timeout=30)

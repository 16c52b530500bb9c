"""The loader under faults: a worker that is killed, a shard that is replaced, a disk that is
full.
"""

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cluster_toys import ROOT, environment, finish, prepare
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import run, run_ranks

from lit_iba.data import SampleLoader, SamplePlan, ShardIndex, shard_loader
from lit_iba.data.batch import BatchMaker
from lit_iba.data.quickstart import QUICKSTART_PREPROCESSING, QuickstartSettings, make_quickstart
from lit_iba.data.sources import ShardSource
from lit_iba.data.stream import BatchStream
from lit_iba.data.transport import Sender
from lit_iba.data.workers import WorkerWatch
from lit_iba.errors import InputError

STORE = """
import resource, sys, torch
from lit_iba.resumable.store import ShardStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a full disk does to a writer
ShardStore(sys.argv[1]).write("random", "val-000000", {"values": torch.zeros(1_000_000)}, {}, {})
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("digits") / "data"
    make_quickstart(folder, QuickstartSettings(200, 10, 10))
    return ShardIndex.load(folder / "train")


KILL = """
import multiprocessing, os, signal, sys
multiprocessing.set_start_method("fork")
from lit_iba.data.stream import BatchStream
whole = BatchStream.__iter__

def killed_after_three(self):
    for number, batch in enumerate(whole(self)):
        if number == 3 and self.plan.training:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

BatchStream.__iter__ = killed_after_three  # in the workers, which are forked from here
from lit_iba.cli.main import main
sys.exit(main(sys.argv[1:], "train.py"))
"""


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    """Wherever the run is when it learns of it: in the loader, or in the middle of a step."""
    fit = [
        "fit",
        "--config",
        str(prepare(tmp_path)),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    done = run(["-c", KILL, *fit, "--data.num_workers", "2"], environment())
    assert done.returncode == 2, done.stderr
    assert "worker process of the loader was killed" in done.stderr


SAVED = """
import os, signal, sys, time
import torch
from lit_iba.data.workers import WorkerWatch, stream_loader, worker_killed
from lit_iba.training import DurableCheckpointIO

class Numbers(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(1000))

watch = WorkerWatch(60)
batches = watch.batches(stream_loader(Numbers(), 2, None))
next(batches)
write = torch.save

def killed_meanwhile(content, path):
    victim = next(iter(watch._workers))
    os.kill(victim.pid, signal.SIGKILL)
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(100):  # where Python runs a handler
        time.sleep(0.001)
    write(content, path)

torch.save = killed_meanwhile
DurableCheckpointIO().save_checkpoint({"step": 3}, sys.argv[1])
print("saved", flush=True)
try:
    next(batches)
except RuntimeError as error:
    assert worker_killed(error) and "Killed" in str(error), error
    print("told", flush=True)
"""


def test_who_saves_a_checkpoint_is_not_told_of_a_killed_worker(tmp_path: Path) -> None:
    """Torch's error for it would pass for one of a disk that is full, and the file be lost."""
    done = run(["-c", SAVED, str(tmp_path / "last.ckpt")], environment())
    assert done.stdout.split() == ["saved", "told"], done.stderr


FOREIGN = """
import os, signal, time
import torch
from lit_iba.data.workers import WorkerWatch, stream_loader

class Numbers(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(1000))

ours = WorkerWatch(60).batches(stream_loader(Numbers(), 1, None))
next(ours)
theirs = iter(torch.utils.data.DataLoader(Numbers(), num_workers=1))
next(theirs)
try:
    os.kill(theirs._workers[0].pid, signal.SIGKILL)
    for _ in range(1000):
        time.sleep(0.01)
except RuntimeError as error:
    print("told", flush=True)
"""


def test_loaders_of_others_keep_torchs_way() -> None:
    done = run(["-c", FOREIGN], environment())
    assert done.stdout.split() == ["told"], done.stderr


def test_a_shard_replaced_while_running_is_noticed_before_it_is_read(shards: ShardIndex) -> None:
    path = shards.shards[-1].path
    whole = path.read_bytes()
    loader = shard_loader(shards, QUICKSTART_PREPROCESSING, 4)
    batches = iter(loader)
    next(batches)
    path.write_bytes(whole + bytes(512))
    try:
        with pytest.raises(InputError, match=r"bytes, but the index says .* fetch it again"):
            for _ in loader:
                pass
    finally:
        path.write_bytes(whole)


class Stuck:
    """Shards whose storage does not answer."""

    def __init__(self, source: ShardSource) -> None:
        self.counts = source.counts

    def open(self, number: int) -> Any:
        time.sleep(600)


def test_workers_that_give_nothing_are_ended_with_a_sentence(shards: ShardIndex) -> None:
    source = Stuck(ShardSource(shards.shards))
    plan = SamplePlan(source.counts(), 4, lanes=2)
    stream = BatchStream(source, plan, BatchMaker(QUICKSTART_PREPROCESSING))
    loader = SampleLoader(stream, 2, worker_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no batch for 0\.5 s .* worker_timeout"):
        next(iter(loader))
    assert time.monotonic() - began < 30
    for worker in multiprocessing.active_children():
        worker.join(timeout=10)
    assert not multiprocessing.active_children()


class SlowStart:
    """A loader whose worker is started late, as on a busy machine, and then gives nothing."""

    num_workers = 1
    dataset = Sender([], 1)  # type: ignore[arg-type]  # never asked

    def __iter__(self) -> "SlowStart":
        time.sleep(1)  # longer than anybody waits for an answer
        self.worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        self.worker.start()
        return self

    def __next__(self) -> None:
        self.worker.join(timeout=10)
        assert not self.worker.is_alive(), "nobody has killed it"
        raise RuntimeError("a worker was killed")  # as torch's loader says


def test_workers_are_watched_where_their_start_took_longer_than_an_answer_may() -> None:
    loader, watch = SlowStart(), WorkerWatch(0.3)
    try:
        with pytest.raises(RuntimeError, match="was killed"):
            next(watch.batches(loader))  # type: ignore[arg-type]
        assert watch.expired
    finally:
        loader.worker.kill()


def test_a_full_disk_leaves_no_half_heatmaps(tmp_path: Path) -> None:
    done = run(["-c", STORE, str(tmp_path)], environment())
    assert "File too large" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_validation_is_the_same_on_any_number_of_processes_and_workers(tmp_path: Path) -> None:
    """Twelve pictures in batches of five: nothing divides."""
    config = prepare(tmp_path)
    fit = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(config)]
    finish([*fit, "--trainer.default_root_dir", str(tmp_path / "fit"), "--trainer.max_epochs", "1"])
    checkpoint = str(tmp_path / "fit" / "checkpoints" / "last.ckpt")
    found = []
    for processes, workers in ((1, 0), (2, 1), (3, 0)):
        run = tmp_path / f"on_{processes}"
        validate = [
            str(ROOT / "train.py"),
            "validate",
            "--config",
            str(config),
            "--ckpt_path",
            checkpoint,
        ]
        options = [
            "--trainer.default_root_dir",
            str(run),
            "--data.num_workers",
            str(workers),
            "--data.batch_size",
            "5",
        ]
        several = ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
        arguments = [*validate, *options, *(several if processes > 1 else [])]
        done = run_ranks(arguments, environment(), processes)
        assert done.returncode == 0, done.stderr[-3000:]
        log = EventAccumulator(str(run / "tensorboard"))
        log.Reload()
        found.append(
            {
                tag: log.Scalars(tag)[-1].value
                for tag in log.Tags()["scalars"]
                if tag.startswith("val/")
            }
        )
    assert set(found[0]) == {
        "val/loss",
        "val/cross_entropy",
        "val/information_bits",
        "val/accuracy_top1",
    }
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)

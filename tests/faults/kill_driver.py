"""Kills a training again and again until it ends, and compares it with one that nobody killed:
weights, ``best.ckpt``, and the samples that were seen.

    python -m tests.faults.kill_driver CONFIG --kills 200

The training must have ``checkpoint.save_last`` and data modules of this project; its folder is
given by the driver. It is run with and without workers, on one process and on two. What sends the
signals is a process or a whole group, as a cluster's manager, a terminal and the out-of-memory
killer do it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:  # when it is run by hand
    sys.path.append(str(TESTS))

from warm import ROOT, WarmProcess  # noqa: E402 - tests is no package

ARRANGEMENTS = ((0, 1), (2, 1), (0, 2), (2, 2))  # workers, processes
SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT")
SAVED = {75, 130}  # statuses of a run that a signal has ended after saving
STEP_SECONDS = 0.03
PATIENCE = 180.0  # seconds for anything
GRACE = 20.0  # seconds that others have when one of them is gone, before they are killed too


@dataclass
class Kills:
    """Of a driver's work: what was sent, and what was found wrong."""

    sent: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.sent.values())


class Training:
    """One training by a config, started as often as it takes."""

    def __init__(self, config: Path, folder: Path, workers: int, processes: int) -> None:
        self.folder, self.processes, self.starts = folder, processes, 0
        self.history: list[str] = []  # what each start got, and how it ended
        self.arguments = [str(ROOT / "train.py"), "fit", "--config", str(config)]
        self.arguments += ["--trainer.default_root_dir", str(folder / "run")]
        self.arguments += ["--ckpt_path", "last", "--data.num_workers", str(workers)]
        self.arguments += ["--trainer.callbacks+=watched.Watch"]
        if processes > 1:
            self.arguments += ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]

    def start(self, **extra: str) -> list[WarmProcess]:
        """All its processes."""
        self.starts += 1
        watch = self.watch()
        watch.mkdir(parents=True)
        paths = [ROOT, TESTS / "faults", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
            "KILL_WATCH": str(watch),
            **extra,
        }
        return [WarmProcess(self.arguments, environment | own) for own in self._ranks()]

    def watch(self) -> Path:
        """Where the present start's processes write what they see."""
        return self.folder / "watch" / f"{self.starts:03d}"

    def _ranks(self) -> list[dict[str, str]]:
        """What torchrun would tell each process."""
        if self.processes == 1:
            return [{}]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = str(self.processes)
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
        group |= {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "TORCHELASTIC_RUN_ID": "kills"}
        return [{"RANK": str(r), "LOCAL_RANK": str(r)} | group for r in range(self.processes)]

    def checkpoint(self, name: str) -> dict[str, Any]:
        path = self.folder / "run" / "checkpoints" / name
        found: dict[str, Any] = torch.load(path, weights_only=True)
        return found

    def last_step(self) -> str:
        """The last that the present start has begun, as it is written down."""
        lines = [file.read_text().splitlines() for file in self.watch().glob("*.txt")]
        return "step " + max((line[-1].split()[0] for line in lines if line), key=int, default="-")

    def samples(self) -> Counter[tuple[int, str]]:
        """How often each (epoch, key) was trained on: a step that was begun again counts once, as
        it was begun last.
        """
        last: dict[int, tuple[str, list[tuple[int, str]]]] = {}
        for folder in sorted((self.folder / "watch").iterdir()):
            for file in folder.glob("*.txt"):
                for line in file.read_text().splitlines():
                    step, epoch, *keys = line.split()
                    begun, rows = last.get(int(step), ("", []))
                    rows = rows if begun == folder.name else []
                    last[int(step)] = (folder.name, rows + [(int(epoch), key) for key in keys])
        return Counter(row for _, rows in last.values() for row in rows)


def wait_for(reached: Callable[[], bool], processes: Sequence[WarmProcess]) -> None:
    """Until something is so, or a process is gone."""
    end = time.monotonic() + PATIENCE
    while not reached() and all(process.poll() is None for process in processes):
        if time.monotonic() > end:
            raise TimeoutError("the training does not move")
        time.sleep(0.01)


def finished(processes: Sequence[WarmProcess]) -> list[int]:
    """Their statuses; when one is gone, the others get some time and are then killed, as torchrun
    and SLURM do.
    """
    wait_for(lambda: False, processes)
    end = time.monotonic() + GRACE
    statuses = []
    for process in processes:
        with suppress(Exception):
            process.wait(max(0.0, end - time.monotonic()))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        statuses.append(process.wait(PATIENCE))
    return statuses


def send(name: str, to_group: bool, processes: Sequence[WarmProcess], chance: random.Random) -> str:
    """Send a signal to one process, or to every process of all groups; says what was sent."""
    chosen = list(processes) if to_group else [chance.choice(processes)]
    for process in chosen:
        with suppress(ProcessLookupError):
            if to_group:
                os.killpg(process.pid, getattr(signal, name))
            else:
                process.send_signal(getattr(signal, name))
    return f"{name} to {'the group' if to_group else 'a process'}"


def drive(training: Training, most: int, chance: random.Random, kills: Kills) -> None:
    """Start the training until it ends, with at most so many kills on the way."""
    sent = 0
    while True:
        processes = training.start(KILL_STEP_SECONDS=str(STEP_SECONDS))
        said, name = "", ""
        if sent < most:
            folder, steps = training.watch(), chance.choice([0, *range(1, 15)])

            def seen(folder: Path = folder, steps: int = steps) -> bool:
                lines = sum(len(file.read_text().splitlines()) for file in folder.glob("*.txt"))
                return lines >= steps * training.processes

            wait_for(seen, processes)
            time.sleep(chance.random() * (2 * STEP_SECONDS if steps else 2))
            if all(process.poll() is None for process in processes):
                name = chance.choice(SIGNALS)
                said = send(name, chance.random() < 0.5, processes, chance)
                kills.sent[said] += 1
                sent += 1
        statuses = finished(processes)
        training.history.append(f"{training.last_step()}: {said or 'nothing'} {statuses}")
        if not any(statuses):
            return
        expected = {-getattr(signal, name)} if name else set()
        # Before the first step a signal may end Python itself, or a process its partner.
        if not name or (training.processes == 1 and not {*statuses} <= SAVED | expected | {1}):
            output = "\n".join(process.communicate()[0][-1500:] for process in processes)
            raise RuntimeError(f"after {said or 'no signal'}: statuses {statuses}\n{output}")


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first of a checkpoint's weights that differ, bit by bit; empty where none does."""
    if one["global_step"] != other["global_step"]:
        return f"step {one['global_step']}, not {other['global_step']}"
    if one["state_dict"].keys() != other["state_dict"].keys():
        return "other weights"
    pairs = ((name, value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    return next((name for name, value, same in pairs if not torch.equal(value, same)), "")


def compare(training: Training, whole: Training) -> list[str]:
    """What differs from the training that nobody killed."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        if not (training.folder / "run" / "checkpoints" / name).is_file():
            found.append(f"there is no {name}")
        elif differs := difference(training.checkpoint(name), whole.checkpoint(name)):
            found.append(f"{name} differs ({differs})")
    seen, expected = training.samples(), whole.samples()
    if seen != expected:
        found.append(f"{len(seen - expected)} samples too often, {len(expected - seen)} too few")
    if set(expected.values()) != {1}:
        found.append("the training itself sees samples again")
    return found


def run(
    config: Path,
    folder: Path,
    kills: int,
    arrangements: Sequence[tuple[int, int]] = ARRANGEMENTS,
    a_run: int = 7,
    seed: int = 0,
    seconds: float = float("inf"),
) -> Kills:
    """Run trainings until so many kills are done, or so much time is over.

    Args:
        config: Of the training.
        folder: For all runs.
        kills: How many in all.
        arrangements: Numbers of workers and of processes, in turn.
        a_run: At most so many kills of one training.
        seed: Of the moments and the signals.
        seconds: After which no training is begun any more.
    """
    chance, done, end = random.Random(seed), Kills(), time.monotonic() + seconds
    whole: dict[tuple[int, int], Training] = {}  # by what batches depend on
    while done.count < kills and time.monotonic() < end and not done.wrong:
        workers, processes = arrangements[done.runs % len(arrangements)]
        if (reference := whole.get((workers, processes))) is None:
            place = folder / f"whole_{workers}_{processes}"
            reference = whole[workers, processes] = Training(config, place, workers, processes)
            if any(finished(reference.start())):
                raise RuntimeError("the training fails without any kill")
        training = Training(config, folder / f"run_{done.runs}", workers, processes)
        before = done.count
        drive(training, min(a_run, kills - before), chance, done)
        found = compare(training, reference)
        done.runs += 1
        name = f"run {done.runs} ({workers} workers, {processes} processes)"
        done.wrong += [f"{name}: {what} after {training.history}" for what in found]
        print(f"{name}: {done.count - before} kills, {found or 'all equal'}", flush=True)
    return done


def main() -> int:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--workers", type=int, choices=(0, 2), help="only with so many")
    parser.add_argument("--processes", type=int, choices=(1, 2), help="only on so many")
    given = parser.parse_args()
    chosen = [
        (workers, processes)
        for workers, processes in ARRANGEMENTS
        if given.workers in (None, workers) and given.processes in (None, processes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            given.config.resolve(),
            Path(folder),
            given.kills,
            chosen,
            seed=given.seed,
            seconds=given.seconds,
        )
    print(f"{done.count} kills in {done.runs} runs: {dict(done.sent)}")
    print("\n".join(done.wrong) or "all ended as if nothing had happened")
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

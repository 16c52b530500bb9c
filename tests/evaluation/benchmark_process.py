"""Run the tests' benchmark as a program of its own: killed at random moments and started again, and
on two processes.

Usage: ``benchmark_process.py DATA OUT SEED``. Processes are forked, so that the libraries are
imported only once.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from benchmark_toys import EXPLAINERS, benchmark
from lightning import Fabric

SLOW = EXPLAINERS | {"slow": EXPLAINERS["slow"] | {"seconds": 0.08}}


def run(data: str, out: Path) -> None:
    benchmark(data, out, explainers=SLOW).run(Fabric(accelerator="cpu", devices=1))


def started(data: str, out: Path) -> int:
    """Start the benchmark in a process of its own; returns its id."""
    process = os.fork()
    if process == 0:
        try:
            run(data, out)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return process


def finished_files(out: Path) -> int:
    return len(list(out.rglob("*.safetensors")))


def killed(data: str, out: Path, seed: int) -> None:
    """One run in peace, then one that is killed again and again, each time a bit further on, before
    it may end.
    """
    assert os.waitpid(started(data, out / "peace"), 0)[1] == 0
    moments = random.Random(seed)
    left = []
    for wanted in [0, *sorted(moments.sample(range(1, 40), 6))]:
        process = started(data, out / "killed")
        while finished_files(out / "killed") < wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        left.append(finished_files(out / "killed"))
    assert os.waitpid(started(data, out / "killed"), 0)[1] == 0
    (out / "story.json").write_text(json.dumps({"left": left}))


def together(data: str, out: Path) -> None:
    """The benchmark on two processes."""

    def one(fabric: Fabric) -> None:
        results = benchmark(data, out).run(fabric)
        (out / f"seen_by_{fabric.global_rank}.json").write_text(json.dumps(results))

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(one)


if __name__ == "__main__":
    killed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    together(sys.argv[1], Path(sys.argv[2]) / "together")

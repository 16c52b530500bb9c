"""Processes of one run on one machine: a launched one does not outlive its launcher.

Whoever launches others watches them; but nobody tells them when the launcher itself is killed, and
they would wait for it in the process group's set-up, or poll for its files, without end.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHER = "LIT_IBA_LAUNCHER"  # id of the process that may launch others, by Lightning
POLL = 1.0  # seconds
GRACE = 10.0  # seconds for a process that is about to end by itself


@contextmanager
def watched_launcher() -> Iterator[None]:
    """End this process if the one that launched it is gone: the first one, or torchrun's agent."""
    launched = "LOCAL_RANK" in os.environ
    if launched and "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
    elif launched and LAUNCHER in os.environ:
        launcher = int(os.environ[LAUNCHER])
    else:
        os.environ[LAUNCHER] = str(os.getpid())
        try:
            yield
        finally:  # what this process starts later is none of this run
            os.environ.pop(LAUNCHER, None)
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(launcher, over), name="launcher", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(launcher: int, over: threading.Event) -> None:
    while os.getppid() == launcher:
        if over.wait(POLL):
            return
    if not over.wait(GRACE):
        rank = os.environ.get("RANK", os.environ["LOCAL_RANK"])
        print(
            f"error: process {launcher}, which launched this one (process {rank} of the run), is"
            " gone; look at what it printed, and start again: what is saved is kept",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

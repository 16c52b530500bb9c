"""The loader's worker processes: how they start, how they end, and how long they are waited for.

Workers never answer a signal that is meant for the run: SLURM, Ctrl-C and a closed terminal signal
every process of a group, and a run that loses its workers cannot take the step after which it
saves. They end with the process that started them, however it ends.

Torch tells of a killed worker by an error that its signal handler raises in whatever the main
thread is doing, where others take it for an error of their own: who saves a checkpoint for a full
disk, who decodes for a damaged picture. Here only who waits for a batch is told.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch.utils.data import DataLoader, IterableDataset

from lit_iba.data.transport import Receiver, Sender

# What a cluster, a terminal or a person sends to a whole group of processes.
GROUP_SIGNALS = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
WORKER_TIMEOUT = 500.0  # seconds; less than the 600 that NCCL waits before it ends a group
_PRELOADED = ["__main__", "lit_iba.data.modules"]  # imported once, for all workers of a forkserver
_started: WeakSet[BaseProcess] = WeakSet()
_asking = False  # whether the main thread waits for a batch


def start_method(wanted: str | None) -> str | None:
    """How workers start: as asked for, else by a fork server where a process group exists.

    A group's threads (gloo's, NCCL's) hold locks, which a forked child inherits locked and may
    wait for without end. Elsewhere Python's default stays, since a fork server first imports
    everything again.
    """
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    chosen = wanted or ("forkserver" if grouped else None)
    if chosen == "forkserver":
        multiprocessing.set_forkserver_preload(_PRELOADED)
    return chosen


def stream_loader(
    stream: IterableDataset[Any], num_workers: int, multiprocessing_context: str | None
) -> DataLoader[Any]:
    """A loader of whatever a stream yields, whose workers live as long as it and end with this
    process.
    """
    return DataLoader(
        Sender(stream, num_workers) if num_workers else stream,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context=start_method(multiprocessing_context) if num_workers else None,
        worker_init_fn=end_with_parent,
        pin_memory=not num_workers and torch.cuda.is_available(),  # else the receiver does it
    )


class WorkerWatch:
    """Starts a loader's workers and bounds every wait for them.

    Args:
        patience: Seconds that one answer may take. Whoever takes longer is killed, upon which torch
            ends the wait with its error for a killed worker; :attr:`expired` is then true.
    """

    def __init__(self, patience: float) -> None:
        self.patience, self.expired = patience, False
        self._workers: set[BaseProcess] = set()
        self._since: float | None = None
        self._over = threading.Event()

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """What the loader yields."""
        if not loader.num_workers:
            yield from loader
            return
        assert isinstance(loader.dataset, Sender)  # as stream_loader has made it
        receiver = Receiver(loader.dataset, torch.cuda.is_available())
        self.expired = False
        self._over.clear()
        threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()
        try:
            with self._waiting(), group_signals_blocked():  # a mask is inherited
                before = set(multiprocessing.active_children())
                iterator = iter(loader)
                new = set(multiprocessing.active_children()) - before
            self._workers |= new
            _tell_who_asks()
            _started.update(new)
            if new:
                # A collector finalises a loader's queues before its iterator may speak through
                # them: torch then waits ten seconds a worker, and leaves it behind.
                finalize(loader, end_workers, new).atexit = False
            while True:
                with self._waiting():
                    for worker in self._workers:
                        if worker.exitcode:  # it came to its end while nobody asked
                            raise RuntimeError(_as_torch_says(worker))
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield receiver.opened(item)
        finally:
            self._over.set()

    def end(self) -> None:
        """End the workers that were started here."""
        end_workers(self._workers)
        self._workers.clear()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        global _asking
        main = threading.current_thread() is threading.main_thread()
        self._since = time.monotonic()
        _asking = _asking or main
        try:
            yield
        finally:
            _asking = _asking and not main
            self._since = None

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.patience / 10)):
            since = self._since
            late = since is not None and time.monotonic() - since > self.patience
            # Where the start itself takes long there is nobody to kill yet; the wait for the first
            # answer is watched all the same.
            workers = [worker for worker in self._workers if worker.is_alive()] if late else []
            self.expired = self.expired or bool(workers)
            for worker in workers:
                worker.kill()


@contextmanager
def group_signals_blocked() -> Iterator[None]:
    """Processes that are started inside never answer a group's signals; this one answers them
    afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(_worker: int) -> None:
    """For ``worker_init_fn``: this worker ends at once when the process that it works for is gone.

    Torch's own workers look every five seconds, at a fork server's id where there is one, and until
    then hold what they inherited, such as the run folder's lock.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_leave, args=(parent,), daemon=True).start()


def _wait_and_leave(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(1)


def end_workers(which: Iterable[BaseProcess] | None = None) -> None:
    """End workers, also those that answer nothing; by default all that loaders of this process have
    started.

    Torch takes every child that is killed for an accident, and raises in the main thread, wherever
    that is. Only there can it be told otherwise: in another thread torch's own way is left to end
    the workers, when their loader goes.
    """
    workers = [worker for worker in (_started if which is None else which) if worker.is_alive()]
    if not workers or threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=5)
    signal.signal(signal.SIGCHLD, before)


atexit.register(end_workers)


def _tell_who_asks() -> None:
    """Have torch's handler, which its first loader with workers has set, raise only while the main
    thread waits for a batch.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGCHLD)
    if not callable(before) or getattr(before, "tells_who_asks", False):
        return

    def tell(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except RuntimeError as error:
            ours = any(f"(pid {worker.pid})" in str(error) for worker in _started)
            if _asking or not ours:
                raise

    tell.tells_who_asks = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, tell)


def _as_torch_says(worker: BaseProcess) -> str:
    """Torch's own sentence about a worker that has ended by itself."""
    code = worker.exitcode or 0
    how = f"killed by signal: {signal.strsignal(-code)}" if code < 0 else f"gone with code {code}"
    return f"DataLoader worker (pid {worker.pid}) is {how}"


def worker_killed(error: BaseException) -> bool:
    """Whether an error is torch's of a killed loader worker; its signal handler raises it wherever
    the process happens to be.
    """
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def killed_worker_message(error: BaseException) -> str:
    """What a user can do about a killed worker."""
    return (
        f"a worker process of the loader was killed ({str(error) or type(error).__name__}); often"
        " memory ran out: use fewer workers, a smaller batch_size or block, and resume"
    )


def silent_worker_message(patience: float) -> str:
    """What a user can do about workers that gave nothing in time."""
    return (
        f"the loader's workers gave no batch for {patience:g} s and were ended; look at the storage"
        " that the data lie on, raise worker_timeout if batches may take so long, and resume"
    )

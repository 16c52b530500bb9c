"""Signs of life between processes that wait for each other's files.

A wait for a file has no end of its own: whoever was to write it may have hours of work left, or may
have been killed. So every process lets others see that it lives, and whoever waits looks.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lit_iba.errors import InputError
from lit_iba.files import write_text

FOLDER = ".alive"
BEAT = 5.0  # seconds between two signs of life
PATIENCE = 90.0  # seconds without one; network file systems show changes up to a minute late
POLL = 0.5  # seconds between two looks at what is waited for


class Heartbeat:
    """This process's sign of life, and a look at the others'.

    Args:
        folder: The run's, which all processes share.
        rank: Number of this process.
        world: How many there are; one alone shows nothing.

    Example:
        >>> from lit_iba.resumable import Heartbeat
        >>> with Heartbeat("run", rank=0, world=1) as company:
        ...     company.wait_for(lambda: True, rank=0, what="a file of its own")
        ...     company.rank
        0
    """

    def __init__(self, folder: str | Path, rank: int = 0, world: int = 1) -> None:
        self.folder, self.rank, self.world = Path(folder) / FOLDER, rank, world
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Heartbeat:
        if self.world > 1:
            self._beat(0)
            self._thread = threading.Thread(target=self._beats, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if kind is None:  # who waits for one that has failed is told its name
            self._tidy()

    def _tidy(self) -> None:
        """Take back this process's sign, and those that killed runs of more processes have left;
        the last one takes the folder.
        """
        for sign in self.folder.glob("*"):
            number = sign.name if sign.name.isdigit() else ""
            if number == str(self.rank) or (
                self.rank == 0 and number and int(number) >= self.world
            ):
                sign.unlink(missing_ok=True)
        with suppress(OSError):  # others still have theirs, or there never was one
            self.folder.rmdir()

    def wait_for(self, there: Callable[[], bool], rank: int, what: str) -> None:
        """Until something is there that another process makes.

        Args:
            there: Whether it is.
            rank: Number of the process that makes it.
            what: What it is, for the error.

        Raises:
            InputError: That process has given no sign of life for 90 seconds; or it is this one,
                which has made it before.
        """
        seen, since = self._sign(rank), time.monotonic()
        while not there():
            if rank == self.rank:  # nobody else would make it
                raise InputError(
                    f"{what} are no longer in {self.folder.parent}, where this run has written"
                    " them; start it again, and let nobody delete files there meanwhile"
                )
            now = self._sign(rank)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                who = seen.rpartition(",")[0] or "never seen"
                raise InputError(
                    f"process {rank} of {self.world} ({who}), which was to make {what}, has given"
                    f" no sign of life for {PATIENCE:g} s: look at what it printed, and start"
                    " again; what is done is kept"
                )
            time.sleep(POLL)

    def _sign(self, rank: int) -> str:
        try:
            return (self.folder / str(rank)).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _beat(self, number: int) -> None:
        sign = f"id {os.getpid()} on {socket.gethostname()},{number}"
        write_text(self.folder / str(self.rank), sign)

    def _beats(self) -> None:
        number = 1
        while not self._over.wait(BEAT):
            try:
                self._beat(number)
            except OSError:  # a full disk ends the work itself, with a better sentence
                continue
            number += 1

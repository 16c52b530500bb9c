"""``fit`` in a process of its own, which a sweep starts and which ends with it.

It is started by a module's name: Lightning starts the other processes of a run as it was started
itself, and cannot do so with code that was given by ``-c``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from lit_iba.cli.main import main

MODULE = "lit_iba.cli.apart"
STARTER = "LIT_IBA_STARTER"  # id of the process that waits for this one
PR_SET_PDEATHSIG = 1  # of Linux


def fit_apart(arguments: list[str]) -> int:
    """Run ``fit`` in a process of its own, which may start others; returns its exit status.

    Args:
        arguments: Of ``fit``.
    """
    command = [sys.executable, "-m", MODULE, "fit", *arguments]
    process = subprocess.Popen(command, env=os.environ | {STARTER: str(os.getpid())})
    try:
        return process.wait()
    except KeyboardInterrupt:  # the training has had it too, and saves where it is
        process.wait()
        raise


def _end_with(starter: int) -> None:
    """Get SIGTERM, after which a training saves and ends, when the process that waits for this one
    is gone: nobody would stop it, and it would keep its folder.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != starter:
        sys.exit(f"error: process {starter}, which started this training, is gone")


if __name__ == "__main__":
    if STARTER in os.environ:
        _end_with(int(os.environ.pop(STARTER)))
    sys.exit(main())

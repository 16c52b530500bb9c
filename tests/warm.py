"""Commands in processes of their own, forked from one that has already imported what they need.

A process that imports Lightning computes for six seconds before it does anything. Tests whose
point is a process (that it is killed, told to stop, refused) need dozens: here they start at once,
and are otherwise what ``subprocess.Popen`` starts, with their own arguments, environment and
folder. What is loaded and seeded at a process's start, as the order of sets, is alike in all of
them: a test that needs it otherwise starts one by ``subprocess``.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import weakref
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "lit_iba.cli.training",
    "lit_iba.data.quickstart",
    "lit_iba.iba.readout_training",
    "torch.utils.tensorboard",
)


class WarmProcess:
    """What a test uses of ``subprocess.Popen``, with ``start_new_session``. Arguments are those of
    Python: a script, ``-m`` and a module, or ``-c`` and code; then the program's own.
    """

    def __init__(
        self, arguments: list[str], environment: dict[str, str], errors_apart: bool = False
    ) -> None:
        request = {"arguments": arguments, "environment": environment, "folder": str(Path.cwd())}
        self.output = os.memfd_create("output")
        self.errors = os.memfd_create("errors") if errors_apart else self.output
        self.status, told = os.pipe()
        for descriptor in {self.output, self.errors, self.status}:
            weakref.finalize(self, os.close, descriptor)
        descriptors = [self.output, self.errors, told]
        self.pid = int(_ask(json.dumps(request).encode(), descriptors))
        os.close(told)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, as of ``Popen``: a signal's number is negative."""
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self.returncode = int(os.read(self.status, 100))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed: everything, or standard output and errors apart."""
        self.wait(timeout)
        output, errors = (os.pread(file, 10**8, 0).decode() for file in (self.output, self.errors))
        return output, errors if self.errors != self.output else ""

    def send_signal(self, number: int) -> None:
        """Send it, if the process is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(
    arguments: list[str], environment: dict[str, str], timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run to the end, as ``subprocess.run`` with captured text."""
    process = WarmProcess(arguments, environment, errors_apart=True)
    output, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.wait(0), output, errors)


def run_ranks(
    arguments: list[str], environment: dict[str, str], count: int, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """The processes that ``torchrun --nproc-per-node count`` starts, with what it tells each, or
    one that is told nothing; what the first printed that failed, or else the first of all.
    """
    if count == 1:
        return run(arguments, environment, timeout)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "ranks",
    }
    ranks = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), **group, **environment}
        for rank in range(count)
    ]
    processes = [WarmProcess(arguments, given, errors_apart=True) for given in ranks]
    done = []
    for process in processes:
        output, errors = process.communicate(timeout)
        status = process.wait(0)
        done.append(subprocess.CompletedProcess(arguments, status, output, errors))
    return next((one for one in done if one.returncode), done[0])


@functools.cache
def _server() -> socket.socket:
    """Starts the process that forks, once for this one; it ends with it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [sys.executable, __file__, str(there.fileno())],
        env=environment,
        pass_fds=[there.fileno()],
        cwd=ROOT,
    )
    there.close()

    def end() -> None:
        here.close()
        started.wait(10)

    atexit.register(end)
    return here


def _ask(request: bytes, descriptors: list[int]) -> bytes:
    server = _server()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], descriptors)
    server.sendall(request)
    answer = server.recv(100)
    assert answer, "the process that forks has ended"
    return answer


def _serve(requests: socket.socket) -> list[str] | None:
    """Forks for every request. In a forked process: the arguments, when all is as they expect; in
    the server None, at the end.
    """
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, wake], [], [])
        if wake in ready:
            wake.recv(1000)
            _tell_ended(running)
        if requests not in ready:
            continue
        size, descriptors, _, _ = socket.recv_fds(requests, 8, 3)
        if not size:
            return None
        request = b""
        while len(request) < int.from_bytes(size, "big"):
            request += requests.recv(int.from_bytes(size, "big") - len(request))
        *output, told = descriptors
        process = os.fork()
        if not process:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, descriptor in enumerate(output, 1):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, *running.values()):
                os.close(descriptor)
            for used in (requests, wake, woken):
                used.close()
            return _become(json.loads(request))
        running[process] = told
        for descriptor in output:
            os.close(descriptor)
        requests.sendall(str(process).encode())


def _tell_ended(running: dict[int, int]) -> None:
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        told = running.pop(process)
        with contextlib.suppress(BrokenPipeError):
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(told)


def _become(request: dict) -> list[str]:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    wanted = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [path for path in wanted if path and path not in sys.path] + sys.path
    return request["arguments"]


def main() -> None:
    """Import, then serve; in a forked process, be the program."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()  # so that collecting copies no page of what is shared
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is None:
        return
    if arguments[0] not in ("-c", "-m"):
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        return
    sys.argv = [arguments[0], *arguments[2:]]
    if arguments[0] == "-m":
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()

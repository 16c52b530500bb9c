"""``doctor``: what this machine has, and what of it will be in the way of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lit_iba.cli.launched import LAUNCHER

Line = tuple[str, str, str]  # what, as it is, and what is wrong with it or nothing

_GIB = 1 << 30
_LITTLE_DISK = 5 * _GIB
_LITTLE_SHARED = 1 * _GIB  # what the loader's workers pass batches through
_FEW_FILES = 1024
_OPTIONAL = ("timm", "onnx", "onnxruntime", "onnxscript", "quantus", "transformers")
_OWN = ("SLURM_", "LIT_IBA_", "NCCL_", "GLOO_", "TORCH_", "CUDA_VISIBLE", "OMP_", "MASTER_")
_GROUP = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "TORCHELASTIC_RUN_ID",
)


def doctor() -> None:
    """Versions, devices, room, and the variables of clusters, and what is wrong with them."""
    from rich.console import Console
    from rich.markup import escape

    console, wrong = Console(highlight=False, soft_wrap=True), []
    for heading, lines in SECTIONS.items():
        console.print(f"[bold]{heading}[/bold]")
        for what, found, fault in lines():
            console.print(f"  {escape(what)}: {escape(found)}")
            if fault:
                wrong.append(fault)
                console.print(f"    [red]! {escape(fault)}[/red]")
    console.print(
        f"[bold]{len(wrong)} things to mend, marked with an exclamation mark[/bold]"
        if wrong
        else "[bold]nothing is wrong[/bold]"
    )


def packages() -> Iterator[Line]:
    """Python and what lit_iba needs, each beside the versions that it may have."""
    from packaging.requirements import Requirement

    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    try:
        own = importlib.metadata.requires("lit_iba") or []
        yield "lit_iba", importlib.metadata.version("lit_iba"), ""
    except importlib.metadata.PackageNotFoundError:
        own = []
        yield "lit_iba", "not installed", "lit_iba runs from a folder; pip install it"
    needed = [Requirement(text) for text in own]
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found, fault = _version(requirement.name), ""
        if not found:
            fault = f"{requirement.name} is missing; pip install '{requirement}'"
        elif not requirement.specifier.contains(found, prereleases=True):
            fault = f"lit_iba needs {requirement}; pip install '{requirement}'"
        yield requirement.name, found or "missing", fault
    for name in _OPTIONAL:
        yield f"{name} (optional)", _version(name) or "not installed", ""


def devices() -> Iterator[Line]:
    """Processors and accelerators, and what they can compute in."""
    import torch

    from lit_iba.classifier.packing import can_pack
    from lit_iba.classifier.precision import computes_bfloat16

    allowed = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    threads = torch.get_num_threads()
    fault = f"{threads} threads share {cores} cores; set OMP_NUM_THREADS={cores}"
    yield "CPU", f"{cores} cores, {threads} threads", fault if threads > cores else ""
    yield "CPU vectors", torch.backends.cpu.get_cpu_capability(), ""
    flags = _flags()
    native = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    emulated = "emulated" if computes_bfloat16(torch.device("cpu")) else "thirty times slower"
    yield "CPU bfloat16", "native" if native else f"{emulated}; use float32", ""
    yield "convolutions with packed weights", "yes" if can_pack() else "no", ""
    built = torch.version.cuda or torch.version.hip
    count = torch.cuda.device_count()
    fault = ""
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        fault = (
            f"there is an NVIDIA driver, but torch {torch.__version__} "
            + ("does not get through to it; compare nvidia-smi's CUDA version" if built else "")
            + ("" if built else "was built without CUDA; install a build for your driver")
        )
    yield "GPUs", f"{count}, torch built for {built or 'the CPU only'}", fault
    if torch.backends.mps.is_available():
        yield "Apple GPU", "Metal", ""
    for index in range(count):
        card = torch.cuda.get_device_properties(index)
        kind = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        free, total = torch.cuda.mem_get_info(index)
        room = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        full = f"GPU {index} is in use by others; choose one with CUDA_VISIBLE_DEVICES"
        yield f"GPU {index}", f"{card.name}, {room}, {kind}", full if free < total / 2 else ""


def room() -> Iterator[Line]:
    """Disk, shared memory and files that may be open."""
    for what, folder in (("here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(folder)
        fault = f"less than {_LITTLE_DISK / _GIB:.0f} GiB are free in {folder}; make room"
        found = f"{folder}: {usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
        yield f"disk, {what}", found, fault if usage.free < _LITTLE_DISK else ""
    yield "locks, here", *_locks(Path.cwd())
    if Path("/dev/shm").is_dir():
        usage = shutil.disk_usage("/dev/shm")
        fault = (
            "the loader's workers pass batches through shared memory, of which less than 1 GiB is "
            "free; give the container more (docker run --shm-size=8g), or set data.num_workers 0"
        )
        found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
        yield "shared memory", found, fault if usage.free < _LITTLE_SHARED else ""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fault = f"{files} files may be open; workers with many shards need more: ulimit -n 4096"
    yield "open files", str(files), fault if files < _FEW_FILES else ""


def variables(environment: Mapping[str, str] = os.environ) -> Iterator[Line]:
    """Variables that schedulers and launchers set, and that change what torch and lit_iba do."""
    faults = _faults(environment)
    for name in sorted(environment):
        if (name in _GROUP or name.startswith(_OWN)) and name != LAUNCHER:
            yield name, environment[name], faults.pop(name, "")
    for name, fault in faults.items():
        yield name, "not set", fault


def _faults(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    number = {name: environment.get(name, "") for name in (*_GROUP[:5], "MASTER_PORT")}
    for name, value in number.items():
        if value and not value.isdecimal():
            found[name] = f"{value!r} is no number; unset {name}, or start with torchrun"
    if number["WORLD_SIZE"].isdecimal() and int(number["WORLD_SIZE"]) > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name) and not environment.get("SLURM_PROCID"):
                found[name] = (
                    "WORLD_SIZE is set; start with torchrun or srun, which set all of them"
                )
    host = environment.get("MASTER_ADDR", "")
    if host:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            found["MASTER_ADDR"] = f"no address is known for {host!r}; give the first node's name"
    if environment.get("SLURM_JOB_ID") and not environment.get("SLURM_NTASKS_PER_NODE"):
        tasks = environment.get("SLURM_NTASKS", "1")
        if tasks.isdecimal() and int(tasks) > 1:
            found["SLURM_NTASKS_PER_NODE"] = (
                "Lightning wants it where there are several tasks: #SBATCH --ntasks-per-node, as"
                " configs/cluster/slurm.sbatch has it"
            )
    elastic = "TORCHELASTIC_RUN_ID" in environment
    if elastic and environment.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1":
        found["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = (
            "set it to 1: without it processes that torchrun starts again wait for dead ones"
        )
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _locks(folder: Path) -> tuple[str, str]:
    """Whether files can be locked, which keeps two runs out of one folder."""
    import fcntl

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "no", f"{folder} cannot be written to or locked ({error.strerror}); choose another"
    return "yes", ""


SECTIONS: dict[str, Callable[[], Iterator[Line]]] = {
    "packages": packages,
    "devices": devices,
    "room": room,
    "variables": variables,
}

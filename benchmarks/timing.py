"""Timing for the benchmarks: medians of interleaved repeats, and a table of ratios kept beside the
code.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lit_iba.metrics.latency import Ledger

RESULTS = Path(__file__).parent / "results"


def median_seconds(
    runs: dict[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median time of each run, in seconds; the runs take turns, so that a busy machine slows all of
    them alike.

    Args:
        runs: What to time, by name.
        repeats: How often each runs.
        warm_up: Whether each runs once more before; runs of many seconds can do without.
        clock: Wall time, or ``time.process_time`` for what a run costs on a processor shared with
            others.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        if warm_up:
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def flops(run: Callable[[], object]) -> float:
    """Floating-point operations of one run (convolutions and matrix products)."""
    with Ledger() as ledger:  # torch's own counter stumbles over gradients of gradients
        run()
    return float(ledger.forward + ledger.backward)


def has_native_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; without that, bfloat16 on the CPU is
    emulated and slow.
    """
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(
        flag in flags.read_text(encoding="utf-8") for flag in ("avx512_bf16", "amx_bf16")
    )


def show(title: str, lines: Sequence[dict[str, object]]) -> None:
    """Print a table."""
    columns = list(lines[0])
    cells = [
        [f"{v:.3g}" if isinstance(v, float) else str(v) for v in line.values()] for line in lines
    ]
    widths = [max(len(c), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    print(f"\n{title}")
    for row in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def report(name: str, lines: Sequence[dict[str, object]]) -> None:
    """Print a table and keep it as benchmarks/results/<name>.json."""
    show(name, lines)
    machine = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "native_bf16": has_native_bf16(),
        "torch": torch.__version__,
    }
    print("machine:", ", ".join(f"{k} {v}" for k, v in machine.items()))
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({"benchmark": name, "machine": machine, "rows": list(lines)}, indent=1)
    (RESULTS / f"{name}.json").write_text(content + "\n", encoding="utf-8")

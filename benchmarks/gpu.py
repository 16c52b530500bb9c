"""Everything that needs a GPU to be known, in one command of at most eight minutes: correctness,
speed, and real studies.

Results are written after every row, as JSON and as a Markdown table, so that a run that is stopped
keeps what it has. Each part has a time limit of its own. With ``--device cpu --small`` the same
code runs in a minute on toys, which is how it is tested.

    python benchmarks/gpu.py [--kit gpu_kit] [--only tests per_sample ...] [--device cpu --small]
    [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


class OutOfTime(Exception):
    """A part has had its time."""


@dataclass
class Run:
    """What a part gets: where to compute, at what size, and where its rows go."""

    device: torch.device
    small: bool
    kit: Path | None
    path: Path  # of the results, without suffix
    keep: Path | None = None  # where trained checkpoints go, if they are to be kept
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)  # measured ceilings of the device

    def add(self, table: str, row: Row) -> None:
        """Keep a row, on disk as well."""
        self.tables.setdefault(table, []).append(row)
        print(f"{table}: " + ", ".join(f"{k} {shown(v)}" for k, v in row.items()), flush=True)
        self.save()

    def note(self, part: str, text: str) -> None:
        """Say how a part ended."""
        self.notes[part] = text
        print(f"{part}: {text}", flush=True)
        self.save()

    def save(self) -> None:
        """Write ``<path>.json`` and ``<path>.md``."""
        content = {
            "machine": machine(self.device),
            "small": self.small,
            "tables": self.tables,
            "parts": self.notes,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(
            json.dumps(content, indent=1) + "\n", encoding="utf-8"
        )
        self.path.with_suffix(".md").write_text(markdown(content), encoding="utf-8")

    def seconds(self, run: Callable[[], object], repeats: int = 3, warm_up: int = 1) -> float:
        """Median time of a run on the device, in seconds."""
        taken = []
        for i in range(warm_up + repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            if i >= warm_up:
                taken.append(time.perf_counter() - start)
        return sorted(taken)[len(taken) // 2]

    def wait(self) -> None:
        """Until everything that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def memory(self) -> Iterator[Callable[[], float]]:
        """A function that tells the most memory that was taken on the device since, in GiB; 0 on
        the CPU.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield (
            lambda: torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        )


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions and matrix products in float32 may round their inputs to
    TensorFloat-32.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` inside after so many seconds."""

    def stop(_number: int, _frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(device: torch.device) -> Row:
    """What the figures were measured on."""
    known: Row = {"device": "cpu", "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known = {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "torch": torch.__version__,
        }
    return known


def shown(value: Any) -> str:
    """A cell of a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(content: Row) -> str:
    """The tables for people."""
    lines = ["# " + ", ".join(f"{k} {v}" for k, v in content["machine"].items()), ""]
    for name, rows in content["tables"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {name}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += [
            "| " + " | ".join(shown(row.get(c, "")) for c in columns) + " |" for row in rows
        ] + [""]
    lines += ["## Parts", ""] + [f"- {part}: {note}" for part, note in content["parts"].items()]
    return "\n".join(lines) + "\n"


def parts() -> dict[str, tuple[Callable[[Run], None], float]]:
    """Every part in order, with its limit in seconds."""
    import gpu_speed
    import gpu_studies

    return {
        "ceilings": (gpu_speed.ceilings, 15),
        "tests": (gpu_studies.cuda_tests, 110),
        "per_sample": (gpu_speed.per_sample, 75),
        "profile": (gpu_speed.profile, 20),
        "input_iba": (gpu_speed.input_iba, 45),
        "metrics": (gpu_speed.metrics, 30),
        "training": (gpu_speed.training, 30),
        "begin_trainings": (gpu_studies.begin_trainings, 10),
        "table_2": (gpu_studies.table_2, 90),
        "table_1": (gpu_studies.table_1, 120),
        "trained": (gpu_studies.trained, 60),
        "compiled": (gpu_speed.compiled, 60),
    }


def main(arguments: argparse.Namespace) -> int:
    """Run the parts; 1 if any failed."""
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    stem = "gpu_" + name.lower().replace(" ", "_") + ("_small" if arguments.small else "")
    run = Run(device, arguments.small, arguments.kit, Path(arguments.out) / stem, arguments.keep)
    failed = False
    for part in arguments.only or parts():
        function, limit = parts()[part]
        start = time.perf_counter()
        try:
            with limited(limit * arguments.patience):
                function(run)
            how = "done"
        except OutOfTime:
            how = (
                f"stopped at its limit of {limit * arguments.patience:.0f} s; the rows above are"
                " kept"
            )
        except Exception as error:
            traceback.print_exc()
            how, failed = (
                (
                    f"failed: {type(error).__name__}:"
                    f" {str(error).splitlines()[0] if str(error) else ''}"
                ),
                True,
            )
        run.note(part, f"{how} ({time.perf_counter() - start:.0f} s)")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(run.path.with_suffix(".md").read_text(encoding="utf-8"))
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="toys instead of real networks")
    parser.add_argument(
        "--kit", type=Path, default=Path("gpu_kit"), help="photographs and weights, see gpu_kit.py"
    )
    parser.add_argument("--only", nargs="+", choices=list(parts()), help="these, in this order")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="factor of every part's time limit"
    )
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints that are trained")
    parser.add_argument("--out", default=str(RESULTS))
    raise SystemExit(main(parser.parse_args()))

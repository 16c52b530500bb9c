"""The command that proves everything on a GPU is rehearsed on the CPU, so that it does not fail
there for a silly reason.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["ceilings", "begin_trainings", "table_2", "table_1", "metrics", "training", "trained"]


@pytest.mark.slow
def test_every_part_leaves_its_rows(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--small",
        "--patience",
        "5",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--only", *PARTS],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = json.loads((tmp_path / "gpu_cpu_small.json").read_text())
    assert all(found["parts"][part].startswith("done") for part in PARTS), found["parts"]
    rows = {table: len(rows) for table, rows in found["tables"].items()}
    assert rows == {
        "ceilings": 4,
        "table_2": 7,
        "table_1_box": 3,
        "table_1_degradation": 3,
        "metrics": 5,
        "training": 2,
        "readout": 1,
        "varsal": 6,
    }
    assert {row["explainer"] for row in found["tables"]["varsal"]} >= {
        "varsal",
        "constant",
        "ramp",
    }


@pytest.mark.slow
def test_a_part_that_takes_too_long_keeps_its_rows(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, 'benchmarks')\n"
        "import torch, gpu\n"
        "from pathlib import Path\n"
        f"run = gpu.Run(torch.device('cpu'), True, None, Path({str(tmp_path / 'found')!r}))\n"
        "try:\n"
        "    with gpu.limited(0.2):\n"
        "        run.add('rows', {'first': 1.0})\n"
        "        time.sleep(30)\n"
        "except gpu.OutOfTime:\n"
        "    print('stopped')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    assert "stopped" in done.stdout, done.stderr
    assert json.loads((tmp_path / "found.json").read_text())["tables"] == {"rows": [{"first": 1.0}]}
    assert "| first |" in (tmp_path / "found.md").read_text()

"""A real SLURM on this machine: a job is submitted, preempted by its signal, put back into the
queue, and finishes.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_toys import ROOT, SAMPLES, environment, last_checkpoint, prepare, samples_taken

WORKERS = ("--data.num_workers", "1")  # which SLURM signals too
SCRIPT = Path(__file__).parent / "slurm.sh"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))) or os.geteuid() != 0,
        reason="needs root and SLURM's daemons: tests/cluster/slurm.sh install",
    ),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    folder = str(tmp_path / "slurm")
    subprocess.run([str(SCRIPT), "start", folder], check=True, timeout=60)
    yield {"SLURM_CONF": f"{folder}/slurm.conf"}
    subprocess.run([str(SCRIPT), "stop", folder], check=False, timeout=60)


def query(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_preempted_job_goes_back_to_the_queue_and_finishes(
    tmp_path: Path, slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, watch, log = (
        prepare(tmp_path),
        tmp_path / "run",
        tmp_path / "watch",
        tmp_path / "job.out",
    )
    for name, value in environment(
        **slurm, WATCH=str(watch), STEP_SECONDS="0.2", PYTHON=sys.executable
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    here = [
        "--nodes=1",
        "--ntasks-per-node=2",
        "--cpus-per-task=1",
        "--gres=none",
        f"--output={log}",
    ]
    training = ["--config", str(config), "--trainer.default_root_dir", str(run), *WORKERS]
    job = query("sbatch", "--parsable", *here, "configs/cluster/slurm.sbatch", *training).strip()

    def state() -> str:
        found = dict(
            part.split("=", 1)
            for part in query("scontrol", "show", "job", job).split()
            if "=" in part
        )
        return f"{found['JobState']} {found['Restarts']}"

    def wait_until(reached: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while state() != reached:
            assert time.monotonic() < deadline, (
                f"{state()}, not {reached}:"
                f" {log.read_text()[-3000:] if log.exists() else 'no output yet'}"
            )
            time.sleep(0.5)

    wait_until("RUNNING 0", 120)
    deadline = time.monotonic() + 300
    while len(samples_taken(watch)) < 40:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    query("scancel", "--signal=USR1", job)
    wait_until("PENDING 1", 120)
    query(
        "scontrol", "update", f"JobId={job}", "StartTime=now"
    )  # SLURM waits two minutes with a requeued job
    wait_until("COMPLETED 1", 240)
    seen = Counter((epoch, key) for _, epoch, key in samples_taken(watch))
    assert len(seen) == 3 * SAMPLES
    assert set(seen.values()) == {1}
    assert last_checkpoint(run)["global_step"] == 3 * 9
    # SLURM may end the processes before they have said more than this.
    assert f"scontrol requeue {job}: done" in log.read_text()

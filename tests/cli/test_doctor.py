"""``doctor`` finds what would be in the way of a run."""

import importlib.metadata

import pytest

from lit_iba.cli import doctor
from lit_iba.cli.main import main


def faults(environment: dict[str, str]) -> dict[str, str]:
    return {name: fault for name, _, fault in doctor.variables(environment) if fault}


def test_it_runs_here_and_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("python", "torch", "cores", "shared memory", "packed weights"):
        assert word in said


def test_variables_that_cannot_work_together() -> None:
    assert faults({"OMP_NUM_THREADS": "2", "HOME": "/root", "SECRET": "1"}) == {}
    assert set(faults({"WORLD_SIZE": "2"})) == {"RANK", "MASTER_ADDR", "MASTER_PORT"}
    whole = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert faults(whole) == {}
    assert set(faults(whole | {"MASTER_PORT": "tcp"})) == {"MASTER_PORT"}
    assert set(faults(whole | {"MASTER_ADDR": "no-such-host.invalid"})) == {"MASTER_ADDR"}
    elastic = whole | {"TORCHELASTIC_RUN_ID": "x"}
    assert set(faults(elastic)) == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE"}
    assert faults(elastic | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}) == {}
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    assert set(faults(job)) == {"SLURM_NTASKS_PER_NODE"}
    assert faults(job | {"SLURM_NTASKS_PER_NODE": "4"}) == {}


def test_nothing_but_its_own_variables_is_shown() -> None:
    shown = [name for name, _, _ in doctor.variables({"AWS_SECRET_ACCESS_KEY": "x", "RANK": "0"})]
    assert shown == ["RANK"]


def test_missing_and_wrong_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "no_such_package>=1", "numpy>=1", "timm>=99; extra == 'timm'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = {what: fault for what, _, fault in doctor.packages() if fault}
    assert set(found) == {"torch", "no_such_package"}
    assert "torch>=99" in found["torch"]
    assert "missing" in found["no_such_package"]

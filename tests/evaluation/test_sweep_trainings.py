"""The trainings of a sweep: processes that may start others, and that end with the sweep."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_iba.cli.apart import fit_apart
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.files import FolderLock

CONFIG = """
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args: {{classifier: {{model: small_cnn, weights: random}}, layer: layer2,
    taps: [layer2], readout: {{hidden: [4, 4]}}, statistics_images: 8}}
data:
  class_path: lit_iba.data.ShardDataModule
  init_args: {{train: {data}/train, val: {data}/val, batch_size: 4}}
resume: {{every_n_steps: 1}}
trainer: {{default_root_dir: {out}, accelerator: cpu, logger: false,
  enable_progress_bar: false, enable_model_summary: false}}
"""
SWEEP = "import sys; from lit_iba.cli.apart import fit_apart; sys.exit(fit_apart(sys.argv[1:]))"


@pytest.fixture
def config(tmp_path: Path) -> str:
    data = make_quickstart(tmp_path / "data", QuickstartSettings(8, 4, 4))
    (tmp_path / "fit.yaml").write_text(CONFIG.format(data=data, out=tmp_path / "run"))
    return f"--config={tmp_path / 'fit.yaml'}"


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def free(folder: Path) -> bool:
    try:
        FolderLock(folder).release()
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_a_training_of_a_sweep_may_run_in_several_processes(config: str, tmp_path: Path) -> None:
    assert fit_apart([config, "--trainer.devices=2", "--trainer.max_epochs=1"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_training_ends_with_the_sweep_that_was_killed(config: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [config, "--trainer.max_epochs=100000"]
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, *arguments], env=environment)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    until(last.is_file)
    assert not free(tmp_path / "run")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    until(lambda: free(tmp_path / "run"))

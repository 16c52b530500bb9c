"""A few kills by the driver, twenty in CI; a developer runs hundreds of them by hand (see
kill_driver.py).
"""

import os
from pathlib import Path

import pytest
from kill_driver import ARRANGEMENTS, Training, difference, run

from lit_iba.cli.main import main

CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args: {{classifier: {{model: small_cnn, weights: random}}, layer: layer2,
    taps: [layer2, fc], readout: {{hidden: [8, 16]}}, statistics_images: 16}}
data:
  class_path: lit_iba.data.ShardDataModule
  init_args: {{train: {shared}/digits/train, val: {shared}/digits/val, batch_size: 2}}
resume: {{every_n_steps: 3}}
trainer: {{max_epochs: 6, accelerator: cpu, enable_progress_bar: false,
  enable_model_summary: false, log_every_n_steps: 1}}
"""


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_killed_training_ends_as_if_nothing_had_happened(shared: Path, tmp_path: Path) -> None:
    """With two workers; CI also has none, and two processes, which start slowly."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(shared=os.fspath(shared)))
    kills = int(os.environ.get("LIT_IBA_KILLS", "4"))
    arrangements = [(2, 1)] if kills < 20 else ARRANGEMENTS
    done = run(config, tmp_path, kills=kills, arrangements=arrangements, a_run=5)
    assert done.wrong == []
    assert done.count >= kills


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_stopped_at_the_end_of_an_epoch_and_in_the_next_validates_as_ever(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of eight steps: a validation is due behind the seventh, as they are counted from 0."""
    config = tmp_path / "config.yaml"
    config.write_text(
        CONFIG.format(shared=os.fspath(shared)).replace("max_epochs: 6", "max_epochs: 3")
    )
    runs = [Training(config, tmp_path / name, 0, 1) for name in ("whole", "stopped")]
    fits = [[*run.arguments[1:-1], "--trainer.callbacks+=watched.Stop"] for run in runs]
    assert main(fits[0]) == 0
    for at, status in (("7", 75), ("9", 75), ("18", 75), ("none", 0)):
        monkeypatch.setenv("STOP_AT", at)
        assert main(fits[1]) == status
    for name in ("best.ckpt", "last.ckpt"):
        whole, stopped = (run.checkpoint(name) for run in runs)
        assert difference(stopped, whole) == ""
        assert stopped["epoch"] == whole["epoch"]

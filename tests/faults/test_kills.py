"""A few kills by the driver; a developer runs hundreds of them by hand (see kill_driver.py)."""

import os
from pathlib import Path

import pytest
from kill_driver import run

pytestmark = pytest.mark.slow
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


def test_a_killed_training_ends_as_if_nothing_had_happened(shared: Path, tmp_path: Path) -> None:
    """On two processes with a worker each."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(shared=os.fspath(shared)))
    done = run(config, tmp_path, kills=4, arrangements=[(1, 2)], a_run=4)
    assert done.wrong == []
    assert done.count == 4

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
trainer: {{max_epochs: 3, accelerator: cpu, enable_progress_bar: false,
  enable_model_summary: false, log_every_n_steps: 1}}
"""


@pytest.mark.parametrize(("workers", "processes"), [(2, 1), (0, 2)])
def test_a_killed_training_ends_as_if_nothing_had_happened(
    shared: Path, tmp_path: Path, workers: int, processes: int
) -> None:
    config = tmp_path / "config.yaml"
    # The weights of random networks are those of the seed: alike in every process.
    config.write_text(CONFIG.format(shared=os.fspath(shared)))
    done = run(config, tmp_path, kills=3, arrangements=[(workers, processes)], a_run=3)
    assert done.wrong == []
    assert done.count >= 1

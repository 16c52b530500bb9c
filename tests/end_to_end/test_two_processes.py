"""Two real processes (gloo) do what one does: the same feature statistics, the same validation
scores, one checkpoint.
"""

import os
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import run_ranks

from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart

ROOT = Path(__file__).parents[2]
CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args:
    classifier: {{model: small_cnn, weights: {folder}/classifier.safetensors}}
    layer: layer2
    taps: [layer2, fc]
    readout: {{hidden: [8, 16]}}
    statistics_images: 48
    optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.0}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}/data, train_samples: 64, val_samples: 35, test_samples: 20}}
trainer: {{max_epochs: 1, accelerator: cpu, enable_progress_bar: false,
    enable_model_summary: false}}
"""


def scores(run: Path) -> dict[str, float]:
    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    return {
        tag: log.Scalars(tag)[-1].value for tag in log.Tags()["scalars"] if tag.startswith("val/")
    }


@pytest.mark.slow
def test_two_processes_measure_and_validate_as_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_weights(tmp_path / "classifier.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    make_quickstart(tmp_path / "data", QuickstartSettings(64, 35, 20))
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path))
    fit = [
        str(ROOT / "train.py"),
        "fit",
        "--config",
        str(tmp_path / "config.yaml"),
        "--trainer.default_root_dir",
    ]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for count, name, options in ((1, "one", []), (2, "two", two)):
        done = run_ranks([*fit, str(tmp_path / name), *options], environment, count)
        assert done.returncode == 0, done.stderr[-3000:]
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), rtol=1e-4, atol=1e-6), name
    assert int(one["network.images_measured"]) == 48
    assert scores(tmp_path / "one") == pytest.approx(scores(tmp_path / "two"), rel=1e-4)

"""A small classifier, and trainings of InputIBA in one pass on the embedded digits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.data import QuickstartDataModule
from lit_iba.input_iba.readout_training import InputIBATraining

CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.input_iba.InputIBATraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    layer: layer2
    width: 8
    beta_warmup_steps: 4
    statistics_images: 32
    warmup_steps: 2
    schedule: cosine
    ema_decay: 0.9
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 32, val_samples: 12, test_samples: 10,
      batch_size: 8}}
trainer: {{default_root_dir: {root}, max_epochs: 2, log_every_n_steps: 1, accelerator: cpu,
    enable_model_summary: false}}
resume: {{every_n_steps: 3}}
"""


def own_classifier(folder: Path) -> FrozenClassifier:
    return FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))


def module_of(folder: Path, **changes: Any) -> InputIBATraining:
    """A module with statistics."""
    torch.manual_seed(0)
    classifier = {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")}
    module = InputIBATraining(classifier, **{"layer": "layer2", "width": 8, **changes})
    module.measure(iter(pictures(64, seed=5).split(16)))
    return module


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def little_batch(folder: Path) -> dict[str, Any]:
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=32, val_samples=12, test_samples=10, batch_size=8
    )
    data.setup("fit")
    return next(iter(data.train_dataloader()))  # type: ignore[no-any-return]

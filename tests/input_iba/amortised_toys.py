"""A small classifier, and trainings of amortised InputIBA's generator on the embedded digits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.data import QuickstartDataModule
from lit_iba.input_iba.amortised_training import InputIBATraining

QUICK = {
    "feature_steps": 2,
    "feature_copies": 2,
    "samples": 2,
    "critic_steps": 2,
    "steps": 4,
    "copies": 2,
}
CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.input_iba.InputIBATraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    layer: layer2
    taps: [layer2, fc]
    widths: [4, 6]
    critic_width: 4
    start_batches: 2
    settings: {{feature_steps: 2, feature_copies: 2, samples: 2, critic_steps: 2, steps: 4,
        copies: 2}}
    statistics_images: 32
    optimizer: {{class_path: torch.optim.RMSprop, init_args: {{lr: 0.001}}}}
    critic_optimizer: {{class_path: torch.optim.RMSprop, init_args: {{lr: 0.001}}}}
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
    given: dict[str, Any] = {
        "layer": "layer2",
        "taps": ["layer2", "fc"],
        "widths": [4, 6],
        "critic_width": 4,
        "start_batches": 0,
        "settings": QUICK,
        **changes,
    }
    module = InputIBATraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")}, **given
    )
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

"""A model that writes down what it was given, and what stops and saves its run."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Recorder(LightningModule):
    """Learns next to nothing, and writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[str, ...]] = []
        self.validated: list[str] = []

    def training_step(self, batch: dict[str, Any], step: int) -> Tensor:
        self.trained.append(
            tuple(k for k, w in zip(batch["key"], batch["weight"].tolist(), strict=True) if w)
        )
        return (self.scale - batch["picture"].float().mean() / 255) ** 2

    def validation_step(self, batch: dict[str, Any], step: int) -> None:
        self.validated += [
            k for k, w in zip(batch["key"], batch["weight"].tolist(), strict=True) if w
        ]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint after a number of steps, and stops the run as a kill would."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
            trainer.limit_train_batches = 0


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "limit_val_batches": 0, **options},
    )

"""Trainings of a user whose data are none of this project's data modules, or go only forward."""

from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lit_iba.data import PipelineDataModule
from lit_iba.errors import InputError
from lit_iba.evaluation import EvaluationMetrics
from lit_iba.iba import ReadoutTraining

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(LeafSpec|many workers|eval mode at the start|litlogger|no `val_dataloader`)"
)

BATCH = {
    "picture": torch.zeros(4, 3, 64, 64, dtype=torch.uint8),
    "label": torch.zeros(4, dtype=torch.int64),
    "weight": torch.ones(4),
}


class Loaders(L.LightningDataModule):
    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch] * 2, batch_size=None)


class Measured(Loaders):
    def statistics_dataloader(self) -> Any:
        return self.train_dataloader()


class Forward(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ((picture, 1) for picture in BATCH["picture"])


def fit(data: Any, *callbacks: L.Callback) -> None:
    module = ReadoutTraining(
        {"model": "small_cnn", "weights": "random"}, "layer1", ["layer1"], statistics_images=4
    )
    L.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    ).fit(module, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Loaders(BATCH), "the Trainer has a Loaders, but feature statistics come from a data mod"),
        (Loaders(BATCH).train_dataloader(), "has loaders, .* give it PipelineDataModule around"),
        (
            Measured((BATCH["picture"], BATCH["label"])),
            "data give a (tuple|list) without 'picture'",
        ),
        (Measured({"picture": BATCH["picture"]}), "data give a dict without 'weight' for a batch"),
        (
            Measured({**BATCH, "picture": torch.zeros(4, 3, 64, 64)}),
            r"pictures of a batch are torch\.float32; give them as they are stored, uint8",
        ),
    ],
)
def test_data_of_another_form_are_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(data)


def test_heatmaps_of_a_pipeline_are_not_left_unjudged_without_a_word() -> None:
    data = PipelineDataModule(train=Forward(), val=Forward(), batch_size=4)
    with pytest.raises(InputError, match="the val data are a Forward, which only goes forward"):
        fit(data, EvaluationMetrics({"degradation": {"tile": 16}}, images=4))

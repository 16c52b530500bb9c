"""The command line of training: what LightningCLI leaves open."""

from datetime import timedelta

import lightning as L
import pytest
from lightning.pytorch.cli import LightningArgumentParser

from lit_iba.cli.training import TrainingCLI


@pytest.mark.parametrize(
    "kind", [float | int, float | int | None, str | float | int | timedelta | None]
)
def test_one_batch_is_not_all_batches(kind: type) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(L.Trainer, "trainer")
    parser.add_argument(
        "--batches", type=kind
    )  # what ``typing``'s cache makes of Lightning's Union[int, float]
    assert not isinstance(
        parser.parse_args(["--batches", "1"]).batches, int
    )  # or this test tests nothing
    TrainingCLI.add_arguments_to_parser(object.__new__(TrainingCLI), parser)
    read = parser.parse_args(["--batches", "1"]).batches
    assert isinstance(read, int)
    assert read == 1
    assert parser.parse_args(["--batches", "0.5"]).batches == 0.5

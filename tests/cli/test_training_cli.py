"""The command line of training: what LightningCLI leaves open."""

import re
from datetime import timedelta

import lightning as L
import pytest
from lightning.pytorch.cli import LightningArgumentParser

from lit_iba.cli.training import TrainingCLI, run_training
from lit_iba.cli.training_help import print_training_help


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


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_the_quick_help_names_every_argument_of_lightnings_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read from sources, and must not lag behind a new version of Lightning."""
    print_training_help("train.py", command)
    quick = capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_training([command, "--help", "--trainer.max_epochs=1"])  # LightningCLI's own
    own = capsys.readouterr().out
    assert len(own) > len(quick) > 5000
    names, known = (set(re.findall(r"^ +(--[\w.]+)", text, re.MULTILINE)) for text in (own, quick))
    assert names - known == set()
    assert "default: val/loss" in quick
    assert "lit_iba.iba.ReadoutTraining" in quick
    assert "lit_iba.data.ShardDataModule" in quick

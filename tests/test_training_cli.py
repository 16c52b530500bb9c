"""The command line of training: what LightningCLI leaves open."""

from datetime import timedelta

import pytest
from jsonargparse import ArgumentParser

from lit_iba.training_cli import read_whole_numbers_as_such


@pytest.mark.parametrize("kind", [float | int, float | int | None, str | float | int | timedelta | None])
def test_one_batch_is_not_all_batches(kind: type) -> None:
    parser = ArgumentParser()
    parser.add_argument("--batches", type=kind)  # what ``typing``'s cache makes of Lightning's Union[int, float]
    assert not isinstance(parser.parse_args(["--batches", "1"]).batches, int)  # or this test tests nothing
    read_whole_numbers_as_such(parser)
    read = parser.parse_args(["--batches", "1"]).batches
    assert isinstance(read, int)
    assert read == 1
    assert parser.parse_args(["--batches", "0.5"]).batches == 0.5

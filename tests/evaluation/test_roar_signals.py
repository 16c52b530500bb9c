"""How a command ends that a signal stops inside one of Lightning's trainers."""

import signal
from pathlib import Path
from typing import Any

import pytest
from roar_toys import SIDE, make_data

from lit_iba.cli.main import main
from lit_iba.evaluation.roar_training import Retraining


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_that_a_signal_stops_in_a_trainer_says_so_and_has_its_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
) -> None:
    data, step = make_data(tmp_path / "data", train=48, test=8), Retraining.training_step

    def stopped(self: Retraining, *given: Any) -> Any:
        signal.raise_signal(getattr(signal, name))
        return step(self, *given)

    monkeypatch.setattr(Retraining, "training_step", stopped)
    sets = [f"--train={data / 'train'}", f"--test={data / 'test'}", f"--out={tmp_path / 'run'}"]
    recipe = ["--recipe.network=roar_toys:network", "--recipe.epochs=2", "--recipe.batch_size=8"]
    chosen = ["--explainers.random={}", f"--size={SIDE}", "--accelerator=cpu"]
    assert main(["roar", *sets, *recipe, *chosen]) == status
    assert capsys.readouterr().err.strip().splitlines()[-1] == "stopped"
    assert not (tmp_path / "run" / "cells").exists()

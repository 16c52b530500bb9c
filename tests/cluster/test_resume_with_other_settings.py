"""What a resumed run may be given otherwise, and what it keeps when it ends badly."""

import re
import signal
from pathlib import Path

import pytest
import yaml
from cluster_toys import (
    assert_same_weights,
    checkpoint,
    command,
    finish,
    last_checkpoint,
    prepare,
    start,
)

pytestmark = pytest.mark.slow
RESUME = ("--ckpt_path", "last")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("toys"))


def logs(run: Path) -> set[Path]:
    return {*run.rglob("*tfevents*"), *run.glob("config*.yaml")}


def test_a_resumed_run_that_ends_badly_keeps_its_log_and_what_the_error_names(
    config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finish(command(config, run, "--trainer.max_epochs", "1"))
    before, steps = logs(run), last_checkpoint(run)["global_step"]
    output = finish(command(config, run, *RESUME), expected=2, NAN_AT=str(steps + 5))
    assert last_checkpoint(run)["global_step"] == steps + 3  # it went on, and saved
    assert len(logs(run) - before) == 2
    named = re.search(r"the batch's keys are in\s+(\S+):", " ".join(output.split()))
    assert named is not None
    assert Path(named[1]).is_file()
    assert f"{run / 'checkpoints' / 'last.ckpt'} is from before" in " ".join(output.split())


def test_a_run_whose_first_loss_is_no_number_keeps_what_the_error_names(
    config: Path, tmp_path: Path
) -> None:
    output = finish(command(config, tmp_path / "run"), expected=2, NAN_AT="0")
    assert (tmp_path / "run" / "not_finite_rank0.json").is_file()
    assert "is from before" not in output


def test_gradients_are_accumulated_over_a_kill_and_not_over_a_validation(
    config: Path, tmp_path: Path
) -> None:
    options = ("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval")
    output = finish(command(config, tmp_path / "never", *options, "5"), expected=2)
    assert "a validation after every 5 batches comes between two of the 2 whose gradients" in (
        " ".join(output.split())
    )
    finish(command(config, tmp_path / "whole", *options, "4"))
    run = tmp_path / "run"
    for _ in range(2):
        process = start(
            command(config, run, *options, "4", *RESUME), VALIDATION_SECONDS="0.5", WATCH=str(run)
        )
        while not (run / "validating").exists():
            assert process.poll() is None, process.communicate()[0][-3000:]
        (run / "validating").unlink()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finish(command(config, run, *options, "4", *RESUME))
    assert_same_weights(last_checkpoint(run), last_checkpoint(tmp_path / "whole"))


def test_a_resumed_run_takes_the_learning_rate_and_patience_of_its_config(
    config: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    stop = {"monitor": "val/loss", "patience": 7}
    settings["trainer"]["callbacks"] = [
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stop}
    ]
    run, other = tmp_path / "run", tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(settings))
    finish(command(other, run, "--trainer.max_epochs", "1"))
    stop["patience"] = 2
    settings["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.0
    other.write_text(yaml.safe_dump(settings))
    output = finish(command(other, run, "--trainer.max_epochs", "2", *RESUME))
    assert "the optimiser goes on with this config's lr 0 (before, 0.001)" in output
    last, best = last_checkpoint(run), checkpoint(run, "best.ckpt")
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    (stopping,) = (v for k, v in last["callbacks"].items() if k.startswith("EarlyStopping"))
    assert stopping["patience"] == 2
    assert best["epoch"] == 0  # nothing was learned in the second
    assert "goes on with" not in finish(command(other, run, "--trainer.max_epochs", "3", *RESUME))

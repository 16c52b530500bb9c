"""The command line of training: what LightningCLI leaves open."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from training_toys import prepare

import lit_iba
from lit_iba import HeatmapMetric
from lit_iba.cli.main import main
from lit_iba.cli.training import TrainingCLI, run_training
from lit_iba.cli.training_help import print_training_help
from lit_iba.evaluation import EvaluationMetrics
from lit_iba.metrics import Result, mean_and_error


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
    shipped = {
        f"{room}.{name}"
        for room, module in ((path.parent.name, path) for path in ROOMS)
        for name in re.findall(r"\w+(?:Training|DataModule)\b", module.read_text("utf-8"))
    }
    shipped -= {"training.TrainingWithFrozenClassifier", "data.SampleDataModule"}  # bases
    assert {name for name in shipped if f" lit_iba.{name}: " not in quick} == set()


ROOMS = sorted(Path(lit_iba.__file__).parent.glob("*/__init__.py"))

CONFIG = """
model:
  class_path: lit_iba.iba.ReadoutTraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    layer: layer2
    taps: [layer2]
    readout: {{hidden: [4, 4]}}
    statistics_images: 8
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 8, val_samples: 4, batch_size: 4}}
trainer: {{default_root_dir: {root}, max_epochs: 1, accelerator: cpu, logger: false,
           enable_progress_bar: false, enable_model_summary: false}}
"""


@pytest.mark.slow
def test_a_run_without_checkpoints_writes_none_and_says_nothing_of_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = ["fit", "--config", str(prepare(tmp_path, CONFIG) / "config.yaml")]
    assert main([*config, "--trainer.enable_checkpointing", "false"], "train.py") == 0
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written == {".lock", "command.txt", "config.yaml"}
    assert not [w for w in recwarn if "srun" in str(w.message)]


@pytest.mark.slow
def test_a_run_in_a_thread_trains_and_leaves_signals_alone(tmp_path: Path) -> None:
    config = ["fit", "--config", str(prepare(tmp_path, CONFIG) / "config.yaml")]
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, config, "train.py").result() == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


class Spread(HeatmapMetric):
    """A metric of the user's own."""

    name, scalars, definition = "spread", ("score",), "deviation of the map"

    def __init__(self, scale: float) -> None:
        super().__init__({"scale": scale})
        self.factor = scale

    def score_rows(self, classifier: Any, judged: Any) -> dict[str, torch.Tensor]:
        return {"score": self.factor * judged.heatmaps.flatten(1).std(dim=1)}

    def summarize(self, rows: dict[str, torch.Tensor]) -> Result:
        mean, error = mean_and_error(rows["score"])
        return Result(float(mean), float(error), len(rows["score"]))


class Watched(EvaluationMetrics):
    """A callback of the user's own, which evaluates and says where."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = [score for _, score, _ in self.history["wide"]]
        (Path(trainer.default_root_dir) / "scores.txt").write_text(str(max(scores)))


@pytest.mark.slow
def test_a_callback_and_a_metric_of_ones_own_choose_the_checkpoint(tmp_path: Path) -> None:
    config = ["fit", "--config", str(prepare(tmp_path, CONFIG) / "config.yaml")]
    metrics = {"wide": {"metric": f"{__name__}.Spread", "scale": 3.0}}
    callback = {"class_path": f"{__name__}.Watched", "init_args": {"metrics": metrics}}
    chosen = ["--checkpoint.monitor", "val/wide", "--checkpoint.mode", "max"]
    epochs = ["--trainer.callbacks", json.dumps([callback]), "--trainer.max_epochs", "2"]
    assert main([*config, *epochs, *chosen], "train.py") == 0
    run = tmp_path / "run"
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    (kept,) = [state for name, state in best.items() if name.startswith("ModelCheckpoint")]
    assert float(kept["best_model_score"]) == pytest.approx(float((run / "scores.txt").read_text()))

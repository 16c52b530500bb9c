"""A small training with the callback that evaluates it; also for the script that is killed and the
one of two processes.

Usage: ``callback_toys.py FOLDER RUN``: a training that saves after every step, started again where
it stopped. ``callback_toys.py FOLDER RUN 2``: one on two processes.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger

from lit_iba import HeatmapMetric
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.data import QuickstartSettings, ShardDataModule, make_quickstart
from lit_iba.evaluation import EvaluationMetrics
from lit_iba.iba import ReadoutTraining
from lit_iba.metrics import Result, mean_and_error
from lit_iba.statistics import estimate_layers

METRICS = {"bounding_box": {}, "degradation": {"tile": 16, "points": 3}}


class Spread(HeatmapMetric):
    """A metric of the user's own."""

    name, scalars, definition = "spread", ("score",), "deviation of the map"
    dies_at = int(
        os.environ.get("DIES_AT", "0")
    )  # number of the batch that is judged when the process is killed
    judged = 0

    def __init__(self) -> None:
        super().__init__({})

    def score_rows(self, classifier: Any, judged: Any) -> dict[str, torch.Tensor]:
        type(self).judged += 1
        if self.judged == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"score": judged.heatmaps.flatten(1).std(dim=1)}

    def summarize(self, rows: dict[str, torch.Tensor]) -> Result:
        mean, error = mean_and_error(rows["score"])
        return Result(float(mean), float(error), len(rows["score"]))


def prepare(folder: Path) -> Path:
    """Weights of a small classifier and a few digits."""
    torch.manual_seed(0)
    save_weights(folder / "classifier.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    make_quickstart(
        folder / "digits", QuickstartSettings(24, 10, 6, shard_size=12, val_shard_size=4)
    )
    return folder


def module(folder: Path) -> ReadoutTraining:
    torch.manual_seed(0)
    made = ReadoutTraining(
        {"model": "small_cnn", "weights": str(folder / "classifier.safetensors")},
        layer="layer2",
        taps=["layer2"],
        readout={"hidden": [4, 4]},
        statistics_images=8,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    images = torch.randn(8, 3, 64, 64)  # so that it may be validated before it is trained
    made.network.set_statistics(estimate_layers(made.classifier, ["layer2"], images))
    return made


def data(folder: Path, **changes: Any) -> ShardDataModule:
    splits = {s: str(folder / "digits" / s) for s in ("train", "val", "test")}
    splits["predict"] = splits["test"]
    return ShardDataModule(**{**splits, "batch_size": 4, "block": 1, **changes})


def trainer(run: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
    }
    return L.Trainer(default_root_dir=run, callbacks=list(callbacks), **{**quiet, **settings})


def main(folder: Path, run: Path, processes: int) -> None:
    torch.set_num_threads(1)
    if processes == 2:
        evaluation = EvaluationMetrics({**METRICS, "decision_flip": FLIP}, ["random"], images=9)
        both = trainer(run, evaluation, devices=2, strategy="ddp", max_epochs=1)
        both.validate(module(folder), data(folder), verbose=False)
        (run / f"{both.global_rank}.json").write_text(json.dumps(scores(both)))
        return
    from lit_iba.training import ResumeCheckpoint

    evaluation = EvaluationMetrics({**METRICS, "mine": {"metric": "callback_toys.Spread"}})
    last = run / "checkpoints" / "last.ckpt"
    settings = {"logger": CSVLogger(run), "val_check_interval": 3}  # of six batches
    alone = trainer(run, evaluation, ResumeCheckpoint(1), **settings)
    resume = str(last) if last.is_file() else None
    alone.fit(module(folder), data(folder), ckpt_path=resume, weights_only=True)
    (run / "done.json").write_text(json.dumps({"history": evaluation.history, **scores(alone)}))


FLIP = {"pixels_per_step": 1024, "noise_maps": 2}


def scores(trainer: L.Trainer) -> dict[str, float]:
    """What was logged, but for how long it took."""
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {k: v for k, v in logged.items() if not k.endswith("seconds") and "train/" not in k}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)

"""A small real training run for the fault tests: the readout of a small network on the embedded
digits.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import torch
from warm import WarmProcess

from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart

ROOT = Path(__file__).parents[2]
SAMPLES = 70
CONFIG = """
seed_everything: 0
model:
  class_path: watched_training.WatchedReadoutTraining
  init_args:
    classifier: {{model: small_cnn, weights: {folder}/classifier.safetensors}}
    layer: layer2
    taps: [layer2, fc]
    readout: {{hidden: [8, 16]}}
    statistics_images: 24
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.001}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}/data, train_samples: {samples}, val_samples: 12, test_samples: 10,
      batch_size: 4, block: 2}}
resume: {{every_n_steps: 3}}
trainer: {{max_epochs: 3, accelerator: cpu, enable_progress_bar: false,
    enable_model_summary: false, log_every_n_steps: 1}}
"""


def prepare(folder: Path) -> Path:
    """Write classifier, data and config; returns the config's path."""
    torch.manual_seed(0)
    save_weights(folder / "classifier.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    make_quickstart(folder / "data", QuickstartSettings(SAMPLES, 12, 10))
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder, samples=SAMPLES))
    return config


def environment(**extra: str) -> dict[str, str]:
    """One thread a process, and this folder importable."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **extra}


def command(config: Path, run: Path, *options: str, processes: int = 1) -> list[str]:
    """The command line of a training, alone or under torchrun."""
    fit = [
        str(ROOT / "train.py"),
        "fit",
        "--config",
        str(config),
        "--trainer.default_root_dir",
        str(run),
        *options,
    ]
    if processes == 1:
        return [sys.executable, *fit]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [
        sys.executable,
        *launch,
        *fit,
        "--trainer.devices",
        str(processes),
        "--trainer.strategy",
        "ddp",
    ]


def start(arguments: list[str], **extra: str) -> "subprocess.Popen[str]":
    """Start it, as the leader of a group of its own."""
    if arguments[0] == sys.executable:
        return cast("subprocess.Popen[str]", WarmProcess(arguments[1:], environment(**extra)))
    return subprocess.Popen(
        arguments,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(arguments: list[str], expected: int = 0, **extra: str) -> str:
    """Run to the end; returns what it printed."""
    process = start(arguments, **extra)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expected, output[-3000:]
    return output


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    """One of a run's."""
    found: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return found


def last_checkpoint(run: Path) -> dict[str, Any]:
    """The checkpoint at the end."""
    return checkpoint(run, "last.ckpt")


def samples_taken(watch: Path) -> list[tuple[int, int, str]]:
    """(global step, epoch, key) of every sample that was trained on, in any process, as the
    processes wrote them down.
    """
    rows = []
    for file in sorted(watch.glob("*.txt")):
        for line in file.read_text().splitlines():
            step, epoch, *keys = line.split()
            rows += [(int(step), int(epoch), key) for key in keys]
    return rows


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bitwise."""
    assert one["global_step"] == other["global_step"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name

"""Real photographs behind an S3 server train a readout of a real network. Killed and told to stop
on its way, the training ends with the weights of one that nothing had cost.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from warm import ROOT, WarmProcess

from lit_iba.data import write_shards
from lit_iba.data.tar_samples import TarSamples

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
SHARDS, SIZE, BATCH = 2, 16, 4  # shards, photographs in each, and in a batch
STEPS = SHARDS * SIZE // BATCH  # in an epoch
PATIENCE = 120.0  # seconds


def photographs(realdata: Path) -> Iterator[dict[str, Any]]:
    """The first of every shard, as they are stored."""
    for number in range(SHARDS):
        with closing(TarSamples(realdata / f"imagenette_train-{number:06d}.tar")) as samples:
            for sample in islice(iter(samples.next, None), SIZE):
                label = int(sample.members["cls"])
                yield {"key": sample.key, "jpg": sample.members["jpg"], "cls": label}


@pytest.fixture
def command(realdata: Path, s3: dict[str, Any], tmp_path: Path) -> list[str]:
    """The recipe for ResNet-50, on a smaller network, at 112 pixels, and shards in a bucket."""
    here = tmp_path / "shards"
    write_shards(photographs(realdata), here, "imagenette_train", SIZE)
    bucket = fsspec.filesystem("s3", **s3)
    bucket.mkdir("photographs")
    for path in here.iterdir():
        bucket.pipe_file(f"photographs/train/{path.name}", path.read_bytes())
    size = {"resize": 112, "crop": 112}
    small = {
        "model": {
            "init_args": {
                "classifier": {
                    "model": "resnet18",
                    "weights": str(realdata / "weights/resnet18_pqf.safetensors.xz"),
                    "preprocessing": size,
                },
                "layer": "layer2",
                "taps": ["layer2", "layer3", "layer4", "fc"],
                "beta_warmup_steps": STEPS,
                "readout": {"hidden": [16, 8]},
                "statistics_images": 8,
            }
        },
        "data": {
            "init_args": {
                "train": "s3://photographs/train",
                "val": None,
                "preprocessing": size,
                "remote": {"storage_options": s3},
                "augment": True,
                "batch_size": BATCH,
                "num_workers": 2,
            }
        },
        "resume": {"every_n_steps": 2},
        "trainer": {
            "max_epochs": 2,
            "precision": "32-true",
            "accelerator": "cpu",
            "callbacks": [{"class_path": "watched.Watch"}],
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    configs = [ROOT / f"configs/train/readout_resnet50{part}.yaml" for part in ("", "_ours")]
    fit = [str(ROOT / "train.py"), "fit"]
    files = (*configs, tmp_path / "small.yaml")
    return fit + [word for path in files for word in ("--config", str(path))]


def start(command: list[str], run: Path, watch: Path, *options: str) -> WarmProcess:
    """The training in a folder, which writes down what it sees and takes its time over it."""
    watch.mkdir(exist_ok=True)
    paths = [str(ROOT), str(ROOT / "tests" / "faults")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "KILL_WATCH": str(watch),
        "KILL_STEP_SECONDS": "0.1",
    }
    return WarmProcess([*command, "--trainer.default_root_dir", str(run), *options], environment)


def seen(watch: Path) -> list[tuple[str, ...]]:
    """Step, epoch and keys of every batch that was begun, in the order of the steps."""
    lines = [line for file in watch.glob("*.txt") for line in file.read_text().splitlines()]
    return sorted((tuple(line.split()) for line in lines), key=lambda words: int(words[0]))


def stop_at(step: int, number: int, process: WarmProcess, watch: Path) -> str:
    """Send a signal in the middle of a step, and wait for the end; what was printed."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not any(int(words[0]) == step for words in seen(watch)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(PATIENCE)[0]


def last(run: Path) -> dict[str, Any]:
    """The checkpoint that a run goes on from."""
    found: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def test_killed_twice_a_training_from_s3_ends_as_one_that_nothing_cost(
    command: list[str], tmp_path: Path
) -> None:
    whole, run, watch = tmp_path / "whole", tmp_path / "run", tmp_path / "watch"
    process = start(command, whole, tmp_path / "watch_whole")
    output, _ = process.communicate(PATIENCE)
    assert process.returncode == 0, output[-3000:]
    expected = seen(tmp_path / "watch_whole")
    assert len(expected) == last(whole)["global_step"] == 2 * STEPS

    resume = ("--ckpt_path", "last")
    process = start(command, run, watch, *resume)
    stop_at(5, signal.SIGKILL, process, watch)
    assert process.returncode == -signal.SIGKILL
    assert last(run)["global_step"] == 4  # a step is lost, and taken again
    process = start(command, run, watch, *resume)
    output = stop_at(STEPS + 2, signal.SIGTERM, process, watch)
    assert (process.returncode, "ended by SIGTERM" in output) == (75, True), output[-3000:]
    assert last(run)["global_step"] == STEPS + 3
    process = start(command, run, watch, *resume)
    output, _ = process.communicate(PATIENCE)
    assert process.returncode == 0, output[-3000:]

    assert sorted(set(seen(watch))) == sorted(expected)
    again = [words[0] for words in seen(watch) if seen(watch).count(words) > 1]
    assert set(again) <= {"4", "5"}
    one, other = last(whole), last(run)
    assert other["global_step"] == 2 * STEPS
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments = [c["optimizer_states"][0]["state"] for c in (one, other)]
    for number, state in moments[0].items():
        assert torch.equal(state["exp_avg_sq"], moments[1][number]["exp_avg_sq"])

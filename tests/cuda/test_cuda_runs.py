"""Real runs on a GPU: trained in bfloat16, killed and continued; two processes on one device;
exported programs moved there.
"""

import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from cluster_toys import SAMPLES, command, finish, last_checkpoint, prepare, samples_taken, start
from export_toys import random_images, trained_like
from test_nodes import train_on_two_nodes
from torch.export.passes import move_to_device_pass

from lit_iba import FrozenClassifier
from lit_iba.export import export_explainer

IN_BF16 = ("--trainer.precision", "bf16-mixed", "--trainer.deterministic", "warn")
RESUME = ("--ckpt_path", "last")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("toys"))


def varsal_config(folder: Path) -> Path:
    """A run of VarSal's encoder on the data of ``prepare``."""
    config = folder / "varsal.yaml"
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["model"] = {
        "class_path": "lit_iba.varsal.VarSalTraining",
        "init_args": {
            "classifier": settings["model"]["init_args"]["classifier"],
            "channels": [4, 4, 8, 8, 8],
            "optimizer": settings["model"]["init_args"]["optimizer"],
        },
    }
    config.write_text(yaml.safe_dump(settings))
    return config


@pytest.mark.parametrize("module", ["readout", "varsal"])
def test_a_killed_run_goes_on_in_bfloat16(
    config: Path, tmp_path: Path, module: str, accelerator: str
) -> None:
    """On a GPU sums may be taken in another order each time, so that weights agree as far as two
    whole runs do.
    """
    options = ("--trainer.accelerator", accelerator, *IN_BF16)
    config = config if module == "readout" else varsal_config(config.parent)
    finish(command(config, tmp_path / "whole", *options))
    watch, run = tmp_path / "watch", tmp_path / "run"
    process = start(command(config, run, *options), WATCH=str(watch), STEP_SECONDS="0.05")
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").is_file() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finish(command(config, run, *options, *RESUME), WATCH=str(watch))
    one, other = last_checkpoint(run), last_checkpoint(tmp_path / "whole")
    assert one["global_step"] == other["global_step"]
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, other["state_dict"][name], rtol=2e-2, atol=2e-3)
    if module == "readout":
        assert len({(epoch, key) for _, epoch, key in samples_taken(watch)}) == 3 * SAMPLES


def test_two_processes_train_on_one_device(config: Path, tmp_path: Path, accelerator: str) -> None:
    """As two nodes with the same GPU; NCCL would refuse it, gloo does not."""
    seen = train_on_two_nodes(config, tmp_path, "--trainer.accelerator", accelerator)
    assert len(seen) == len(set(seen)) == 3 * SAMPLES


def test_an_exported_program_runs_on_cuda(device: torch.device, tmp_path: Path) -> None:
    explainer = trained_like(
        FrozenClassifier("small_cnn", "random"), "layer2", ["layer2", "layer3", "fc"]
    )
    report = export_explainer(explainer, tmp_path / "export", ["pt2"], progress=False)
    program = move_to_device_pass(torch.export.load(report.files["pt2"][0]), device)
    images = random_images(3, 64)
    found = program.module()(images.to(device))
    expected = explainer.attribute(images, 0).values
    assert found.device == device
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))

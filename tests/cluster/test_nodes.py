"""Two nodes that were started by hand, each told its number: one run, whose folder has one lock."""

import os
from pathlib import Path

import pytest
import yaml
from cluster_toys import SAMPLES, command, prepare, samples_taken, start

pytestmark = pytest.mark.slow


def train_on_two_nodes(config: Path, folder: Path, *options: str) -> list[tuple[int, str]]:
    """(epoch, key) of every sample that either of them trained on."""
    settings = yaml.safe_load(config.read_text())
    gloo = {
        "class_path": "lightning.pytorch.strategies.DDPStrategy",
        "init_args": {"process_group_backend": "gloo"},
    }
    settings["trainer"] |= {"strategy": gloo, "num_nodes": 2, "devices": 1}
    two, watch = folder / "two.yaml", folder / "watch"
    two.write_text(yaml.safe_dump(settings))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + os.getpid() % 20_000),
        "WATCH": str(watch),
    }
    arguments = command(two, folder / "run", *options)
    processes = [start(arguments, NODE_RANK=str(rank), **shared) for rank in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    return [(epoch, key) for _, epoch, key in samples_taken(watch)]


def test_two_nodes_started_by_hand_are_one_run(tmp_path: Path) -> None:
    seen = train_on_two_nodes(prepare(tmp_path), tmp_path)
    assert len(seen) == len(set(seen)) == 3 * SAMPLES

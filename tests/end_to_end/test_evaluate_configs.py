"""Every config of a table or figure is run: all its explainers and metrics, at little cost, on two small pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torchvision
import yaml
from torch import nn

from lit_iba.cli import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate"
BENCHMARKS = sorted(path.name for path in FOLDER.glob("*.yaml") if "metrics:" in path.read_text())

# Settings that cost much, by the name of the explainer or metric, and what they are here.
CHEAP: dict[str, dict[str, Any]] = {
    "per_sample_iba": {"steps": 1, "copies": 1},
    "input_iba": {
        "feature_steps": 1, "feature_copies": 1, "generator_steps": 1, "critic_warm_up": 0, "critic_steps": 1, "samples": 2,
        "steps": 1, "copies": 1,
    },
    "extremal_perturbation": {"steps": 1},
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "occlusion_8": {"tile": 32},
    "occlusion_14": {"tile": 32},
    "degradation": {"points": 3},
    "sensitivity_n": {"points": 2, "masks": 2},
    "sanity_check": {"points": 1},
    "decision_flip": {"pixels_per_step": 2000, "noise_maps": 1},
    "bits_and_accuracy": {"samples": 1},
    "insertion": {"pixels_per_step": 2000},
    "deletion": {"pixels_per_step": 2000},
}  # fmt: skip


def slim_vgg16() -> nn.Module:
    """VGG-16 with its own convolutions and layer names, but without its 120 million weights of linear layers."""
    network = torchvision.models.vgg16(weights=None, init_weights=False, num_classes=10)
    network.classifier[0] = nn.Linear(512 * 7 * 7, 32)
    network.classifier[3] = nn.Linear(32, 32)
    network.classifier[6] = nn.Linear(32, 10)
    return network


NETWORKS = {
    "vgg16": {"model": f"{__name__}:slim_vgg16", "weights": "random"},
    "resnet50": {"model": "resnet50", "weights": "random", "num_classes": 10},
}


def cheap(group: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The explainers or metrics of a config with little to do."""
    return {name: {**given, **CHEAP.get(given.get(kind, name), {})} for name, given in group.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_config_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(4, 4, 4, val_shard_size=2))
    config = yaml.safe_load((FOLDER / name).read_text())
    network = NETWORKS[config["classifier"]["model"]] | {"preprocessing": {"resize": 64, "crop": 64}}
    changes = {
        "classifier": network,
        "explainers": cheap(config["explainers"], "explainer"),
        "metrics": cheap(config["metrics"], "metric"),
    }
    options = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    little = ["--max_images", "2", "--statistics_images", "4", "--gallery", "1", "--accelerator", "cpu"]
    assert main(["benchmark", "--config", str(FOLDER / name), *options, *little], "evaluate.py") == 0
    results = json.loads((Path(config["out"]) / "results.json").read_text())
    assert results["data"]["used"] == 2
    assert set(results["results"]) == set(config["metrics"])
    assert all(set(by_name) == set(config["explainers"]) for by_name in results["results"].values())

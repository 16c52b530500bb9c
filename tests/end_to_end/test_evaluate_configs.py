"""Every config of a table or figure is run: all its explainers and metrics, at little cost, on two
small pictures.
"""

import json
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import make_layers

from lit_iba.baselines.masking_training import MaskingTraining
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import save_weights
from lit_iba.cli.main import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.iba import ReadoutTraining
from lit_iba.iba.readout_network import PAPER_TAPS
from lit_iba.statistics import estimate_layers
from lit_iba.varsal.varsal_training import VarSalTraining

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate"
FOUND = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
BENCHMARKS = [n for n, config in FOUND.items() if {"explainers", "metrics"} <= config.keys()]
BENCHMARKS = [  # of pictures
    name
    for name in BENCHMARKS
    if FOUND[name].get("classifier", {}).get("model", "transformers") != "transformers"
]
SWEEPS = [name for name, config in FOUND.items() if "vary" in config]

# Settings that cost much, by the name of the explainer or metric, and what they are here.
CHEAP: dict[str, dict[str, Any]] = {
    "per_sample_iba": {"steps": 1, "copies": 1},
    "input_iba": {
        "feature_steps": 1,
        "feature_copies": 1,
        "generator_steps": 1,
        "critic_warm_up": 0,
        "critic_steps": 1,
        "samples": 2,
        "steps": 1,
        "copies": 1,
    },
    "extremal_perturbation": {"steps": 1},
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "occlusion_8": {"tile": 32},
    "occlusion_14": {"tile": 32},
    "degradation": {"points": 3},
    "sensitivity_n": {"points": 2, "masks": 2},
    "sanity_check": {"points": 1},
    "decision_flip": {"looks": 3, "noise_maps": 1},
    "bits_and_accuracy": {"samples": 1},
    "insertion": {"pixels_per_step": 2000},
    "deletion": {"pixels_per_step": 2000},
    "smoothgrad_squared": {"samples": 2},
    "pda": {"window": 6, "border": 1, "stride": 6, "samples": 1},
    "fido": {"steps": 1, "samples": 1, "warm_up": 0},
    "low_k_perturbation": {"percentages": [50]},
    "latency": {"repeats": 1, "warm_up": 0},
}


def slim_vgg16() -> nn.Module:
    """VGG-16 with its own layers and their names, an eighth of its channels, and short linear
    layers.
    """
    channels = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    network = torchvision.models.VGG(make_layers(channels), num_classes=10, init_weights=False)
    network.classifier[0] = nn.Linear(64 * 7 * 7, 32)
    network.classifier[3] = nn.Linear(32, 32)
    network.classifier[6] = nn.Linear(32, 10)
    return network


class SlimBottleneck(Bottleneck):
    """A block with a quarter of the channels."""

    expansion = 1


def slim_resnet50() -> nn.Module:
    """ResNet-50 with its own blocks and their names, and a quarter of its channels."""
    return torchvision.models.ResNet(
        SlimBottleneck, [3, 4, 6, 3], num_classes=10, width_per_group=16
    )


NETWORKS = {
    "vgg16": {"model": f"{__name__}:slim_vgg16", "weights": "random"},
    "resnet50": {"model": f"{__name__}:slim_resnet50", "weights": "random"},
    "resnet18": {"model": f"{__name__}:slim_resnet50", "weights": "random"},
}


def cheap(group: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The explainers or metrics of a config with little to do."""
    return {
        name: {**given, **CHEAP.get(given.get(kind, name), {})} for name, given in group.items()
    }


def write_checkpoints(explainers: dict[str, dict[str, Any]], network: dict[str, Any]) -> None:
    """Untrained explainers where a config expects those that training wrote."""
    for name, given in explainers.items():
        paths = given.get("checkpoint", [])
        for path in [paths] if isinstance(paths, str) else paths:
            trained_for, level = dict(network), re.search(r"_randomized_(\d+)/", path)
            if level is not None:
                trained_for["weights"] = f"random_{level[1]}.safetensors"
                arguments = ["--classifier", json.dumps(network), "--layers", level[1]]
                assert main(["randomize", trained_for["weights"], *arguments]) == 0
            if given.get("explainer", name) == "varsal":
                training: L.LightningModule = VarSalTraining(trained_for, channels=[4])
            elif given.get("explainer", name) == "readout_iba":
                training = untrained_readout(trained_for, given["beta"])
            else:
                taps = ["features.8", "features.15", "features.22", "features.29"]
                training = MaskingTraining(
                    trained_for, taps, masking={"widths": [4, 4, 4]}, embedding_steps=0
                )
            trainer = L.Trainer(
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
            trainer.strategy.connect(training)
            trainer.save_checkpoint(path)
            torch.save(
                torch.load(path, weights_only=True) | {"global_step": 1}, path
            )  # as if trained


def untrained_readout(network: dict[str, Any], beta: float) -> ReadoutTraining:
    layer, taps = PAPER_TAPS[network["model"].rpartition("slim_")[2]]
    readout = {"hidden": [4, 4]}
    training = ReadoutTraining(network, layer, list(taps), beta=beta, readout=readout)
    images = training.classifier.empty_images(2)
    estimated = estimate_layers(training.classifier, [layer, *taps], [images, images + 1])
    training.network.set_statistics(estimated)
    return training


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_config_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(4, 4, 4, val_shard_size=2))
    config = yaml.safe_load((FOLDER / name).read_text())
    network: dict[str, Any] = NETWORKS[config["classifier"]["model"]] | {
        "preprocessing": {"resize": 64, "crop": 64}
    }
    if any("checkpoint" in given for given in config["explainers"].values()):
        made = FrozenClassifier(**network)  # a function's own random weights are others each time
        save_weights("slim.safetensors", made.model.state_dict(), {"num_classes": made.num_classes})
        network["weights"] = "slim.safetensors"
        write_checkpoints(config["explainers"], network)
    changes = {
        "classifier": network,
        "explainers": cheap(config["explainers"], "explainer"),
        "metrics": cheap(config["metrics"], "metric"),
    }
    options = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    # A random network is sure of nothing.
    sure = ["--min_probability", "0.001"] if "min_probability" in config else []
    little = [
        *sure,
        "--max_images",
        "2",
        "--statistics_images",
        "4",
        "--gallery",
        "1",
        "--accelerator",
        "cpu",
    ]
    assert (
        main(["benchmark", "--config", str(FOLDER / name), *options, *little], "evaluate.py") == 0
    )
    results = json.loads((Path(config["out"]) / "results.json").read_text())
    assert results["data"]["used"] == 2
    assert set(results["results"]) == set(config["metrics"])
    assert all(set(by_name) == set(config["explainers"]) for by_name in results["results"].values())
    if config.get("panels"):
        sums = json.loads((Path(config["out"]) / "panels" / "sums.json").read_text())
        assert len(sums) == 1  # of the one picture of the gallery
        assert main(["report", config["out"]], "evaluate.py") == 0
        page = (Path(config["out"]) / "report.html").read_text()
        assert "Decomposition by layers" in page
        (image,) = sums.values()
        for layer, activity, above in zip(
            image["layers"], image["activity"], image["bias_above"], strict=True
        ):
            assert layer in page
            assert activity + above == pytest.approx(image["score"], rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SWEEPS if "train" not in FOUND[name]])
def test_the_sweep_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(4, 4, 4, val_shard_size=2))
    config = FOUND[name]
    vary = {setting: values[:2] for setting, values in config["vary"].items()}
    cheap_ones = {k: v for k, v in CHEAP[config["explainer"]].items() if k not in vary}
    changes = {
        "classifier": NETWORKS["resnet50"] | {"preprocessing": {"resize": 64, "crop": 64}},
        "settings": config["settings"] | cheap_ones,
        "vary": vary,
        "metrics": cheap(config["metrics"], "metric"),
    }
    if config["combine"] == "each":
        changes["settings"] |= {setting: values[0] for setting, values in vary.items()}
    options = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    little = ["--max_images", "1", "--statistics_images", "4", "--accelerator", "cpu"]
    assert main(["sweep", "--config", str(FOLDER / name), *options, *little]) == 0
    written = {path.name for path in Path(config["out"]).iterdir()}
    assert {"sweep.csv", "sweep.png", "report.html"} <= written
    assert any(path.startswith("panel_") for path in written)


@pytest.mark.parametrize("name", [name for name in SWEEPS if "train" in FOUND[name]])
def test_the_trainings_of_a_sweep_take_what_it_varies(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = FOUND[name]
    (recipe,) = config["train"]
    given = {**config["settings"], **{k: values[0] for k, values in config["vary"].items()}}
    arguments = [f"--{setting}={json.dumps(value)}" for setting, value in given.items()]
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", recipe, *arguments, "--print_config"])
    assert end.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    for setting, value in given.items():
        found = printed
        for part in setting.split("."):
            found = found[part]
        assert found == value

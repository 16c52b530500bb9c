"""The configs of trainings take a step or two on small networks and little data."""

import json
from pathlib import Path

import pytest
import safetensors.torch
from test_configs import CONFIGS, judged_little, slim

from lit_iba.cli.main import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.iba.readout_network import PAPER_TAPS


def batches_of_two(count: int) -> list[str]:
    """Options of a run of so many batches, here."""
    options = {
        "--data.batch_size": 2,
        "--data.num_workers": 0,
        "--trainer.fast_dev_run": count,
        "--trainer.accelerator": "cpu",
    }
    return [str(word) for pair in options.items() for word in pair]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "recipes"),
    [(network, recipes) for network in ("resnet50", "vgg16") for recipes in (1, 2)],
)
def test_the_training_configs_take_a_step(
    network: str, recipes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    names = [f"readout_{network}.yaml", f"readout_{network}_ours.yaml"][:recipes]
    layered = [word for name in names for word in ("--config", str(CONFIGS / "train" / name))]
    # The paper's layers go with the network's name; VGG-16's own weights would take long to draw.
    classifier = {"model": network, "weights": "random"}
    small = []
    if network == "vgg16":
        classifier["model"] = "test_evaluate_configs:slim_vgg16"
        layer, taps = PAPER_TAPS["vgg16"]
        small = ["--model.layer", layer, "--model.taps", json.dumps(taps)]
    record = json.dumps(classifier | {"preprocessing": {"resize": 64, "crop": 64}})
    config = [*layered, "--model.classifier", record]
    small += [
        "--model.readout",
        '{"hidden": [8, 8]}',
        "--model.statistics_images",
        "4",
        "--trainer.precision",
        "32-true",
    ]
    step = [*judged_little(names[0]), *batches_of_two(1)]
    assert main(["fit", *config, *small, *step], "train.py") == 0


@pytest.mark.slow
def test_the_masking_config_takes_a_step_of_each_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    config = [
        "--config",
        str(CONFIGS / "train" / "real_time_saliency_resnet50.yaml"),
        "--model.classifier.weights",
        "random",
    ]
    small = [
        "--model.masking",
        '{"widths": [8, 8, 8]}',
        "--model.embedding_steps",
        "1",
        "--trainer.precision",
        "32-true",
    ]
    step = [*judged_little("real_time_saliency_resnet50.yaml"), *batches_of_two(2)]
    assert main(["fit", *config, *small, *step], "train.py") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        ("input_iba_resnet18", ["--model.statistics_images", "4"]),
        ("real_time_saliency_resnet18", []),
        ("input_iba_efficientnet_lite0", ["--model.statistics_images", "4"]),
        ("varsal_readout_efficientnet_lite0", []),
        ("readout_efficientnet_lite0", ["--model.statistics_images", "4"]),
    ],
)
def test_the_configs_for_small_networks_take_a_step(
    name: str, fewer: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = "efficientnet_lite0" if name.endswith("lite0") else "resnet18"
    if network == "efficientnet_lite0":
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    small = {"resize": 64, "crop": 64}
    classifier = {"model": network, "weights": "random", "preprocessing": small}
    config = ["--config", str(CONFIGS / "train" / f"{name}.yaml")]
    config += ["--model.classifier", json.dumps(classifier)]
    step = [*judged_little(f"{name}.yaml"), *batches_of_two(1)]
    assert main(["fit", *config, *fewer, *step], "train.py") == 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50", "vgg16"])
def test_the_zero_bias_configs_take_a_step(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    config = ["--config", str(CONFIGS / "train" / f"zero_bias_{network}.yaml"), *slim(network)]
    assert main(["fit", *config, *batches_of_two(1)], "train.py") == 0
    written = Path(f"runs/zero_bias_{network}/{network}_zero_bias.safetensors")
    assert "running_mean" in str(safetensors.torch.load_file(written).keys()) or network == "vgg16"

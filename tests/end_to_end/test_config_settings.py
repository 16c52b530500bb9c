"""What the configs of IBA's tables and figures say: settings, lengths and weights, not only
names.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_iba.evaluation import EvaluationMetrics
from lit_iba.evaluation.plan import class_and_settings
from lit_iba.input_iba.settings import settings_from, smooth_of
from lit_iba.metrics import build_metric
from lit_iba.report import lookup

CONFIGS = Path(__file__).parents[2] / "configs"


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text())
    return loaded


def settings_of(metric: dict[str, Any], name: str) -> dict[str, Any]:
    """All settings of a config's metric, its preset's and defaults among them."""
    given = {key: value for key, value in metric.items() if key != "metric"}
    found: dict[str, Any] = build_metric(metric.get("metric", name), given).identity["settings"]
    return found


IBA = sorted(path.name for path in (CONFIGS / "evaluate").glob("iba_*.yaml"))
PUBLISHED_BASELINES = [
    name for name in IBA if "smoothgrad" in config(f"evaluate/{name}").get("explainers", {})
]


@pytest.mark.parametrize("name", PUBLISHED_BASELINES)
def test_smoothgrad_and_integrated_gradients_are_those_that_iba_published(name: str) -> None:
    explainers = config(f"evaluate/{name}")["explainers"]
    assert explainers["smoothgrad"]["channels"] == "max_abs"
    path = explainers["integrated_gradients"]
    assert (path["channels"], path["multiply_by_inputs"]) == ("max_abs", False)


@pytest.mark.parametrize("network", ["resnet50", "vgg16"])
def test_table_1_degrades_all_images_as_the_authors_do(network: str) -> None:
    found = config(f"evaluate/iba_table1_{network}.yaml")
    assert "max_box_fraction" not in found  # the box score leaves images out, degradation none
    assert settings_of(found["metrics"]["bounding_box"], "bounding_box")["max_box_fraction"] == 0.33
    for tile in (8, 14):
        degradation = settings_of(found["metrics"][f"degradation_{tile}"], "degradation")
        assert degradation["tile"] == tile
        assert degradation["points"] == 100
        assert degradation["baseline"] == "mean_of_image"


def test_the_box_script_of_the_authors_neither_normalises_nor_asks_for_the_label() -> None:
    found = config("evaluate/iba_table1_boxes_unnormalised_resnet50.yaml")
    preprocessing = found["classifier"]["preprocessing"]
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.0] * 3, [1.0] * 3)
    assert found["target"] == "predicted"


@pytest.mark.parametrize("name", [name for name in IBA if "sensitivity" in name])
def test_sensitivity_begins_at_one_tile_and_its_lengths_scale_with_the_picture(name: str) -> None:
    found = config(f"evaluate/{name}")
    side = found["classifier"].get("preprocessing", {}).get("crop", 224)
    metrics = [settings_of(metric, key) for key, metric in found["metrics"].items()]
    assert all(metric["min_fraction"] == 0 for metric in metrics)
    assert {metric["tile"] for metric in metrics} == {1, 8 * side // 224}
    occlusion = {key: value for key, value in found["explainers"].items() if "occlusion" in key}
    assert all(given["fill"] == "zero" for given in occlusion.values())
    tiles = {given.get("tile", int(key.rsplit("_")[-1])) for key, given in occlusion.items()}
    assert tiles == {8 * side // 224, 14 * side // 224}


@pytest.mark.parametrize("network", ["resnet50", "vgg16"])
def test_the_readout_recipes_fit_the_network_of_the_table_and_say_whose_they_are(
    network: str,
) -> None:
    paper, ours = (config(f"train/readout_{network}{suffix}.yaml") for suffix in ("", "_ours"))
    recipe = paper["model"]["init_args"]
    assert recipe["classifier"] == config(f"evaluate/iba_table1_{network}.yaml")["classifier"]
    assert recipe["readout"] == {"initial_alpha": 5.0}
    assert recipe["optimizer"]["init_args"]["lr"] == 1e-5
    assert paper["trainer"]["precision"] == "32-true"
    changed = ours["model"]["init_args"]
    assert "classifier" not in changed
    assert changed["readout"]["initial_alpha"] == 0.0
    assert changed["beta_warmup_steps"] > 0
    assert ours["trainer"]["default_root_dir"] != paper["trainer"]["default_root_dir"]


EXPLAINERS_TRAINED = sorted(
    str(path.relative_to(CONFIGS))
    for path in (CONFIGS / "train").glob("*.yaml")
    if "class_path" in config(f"train/{path.name}")["model"]
    and not path.name.startswith(("imdb", "zero_bias"))
)


@pytest.mark.parametrize("name", [*EXPLAINERS_TRAINED, "quickstart/readout.yaml"])
def test_every_training_of_an_explainer_judges_its_heatmaps(name: str) -> None:
    trainer = config(name)["trainer"]
    (given,) = trainer["callbacks"]
    evaluation = EvaluationMetrics(**given["init_args"])
    assert given["class_path"] == "lit_iba.evaluation.EvaluationMetrics"
    batches = trainer.get("limit_val_batches", math.inf)
    images = evaluation.selection.max_images
    assert images is not None
    assert images <= batches * config(name)["data"]["init_args"]["batch_size"]


def test_the_quickstarts_readout_is_chosen_by_its_box_score() -> None:
    found = config("quickstart/readout.yaml")
    assert found["checkpoint"] == {"monitor": "val/bounding_box", "mode": "max"}


@pytest.mark.parametrize("name", ["figure3_sanity", "figure4_sensitivity", "figure5", "table2"])
def test_input_ibas_figures_judge_the_mask_on_images_that_the_network_sees(name: str) -> None:
    found = config(f"evaluate/input_iba_{name}_vgg16.yaml")
    assert found["min_probability"] == 0.6
    changes = {k: v for k, v in found["explainers"]["input_iba"].items() if k != "layer"}
    smooth = changes.pop("smooth")
    output = settings_from("default", changes).input.output
    assert (output, smooth_of(output, smooth)) == ("smoothed_lambda", 0.0)


def test_the_published_heat_ratio_stands_beside_input_ibas_mask_only() -> None:
    found = config("evaluate/input_iba_table2_vgg16.yaml")
    beside = {
        (metric, name)
        for metric in ("ehr", "ehr_published")
        for name, given in found["explainers"].items()
        if any(
            number.value == 0.476
            for number in lookup(
                "ehr",
                settings_of(found["metrics"][metric], "ehr"),
                "vgg16",
                *class_and_settings("explainer", name, given),
            )
        )
    }
    published = ("ehr_published", "input_iba_published")
    assert beside == {("ehr_published", "input_iba"), published}

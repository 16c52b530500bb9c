"""What the configs of the visual explanations promise: the paper's targets, signs, sizes and
layers, read from the files.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_evaluate_configs import NETWORKS

from lit_iba import FrozenClassifier
from lit_iba.activity import NetworkLayers

FOLDER = Path(__file__).parents[2] / "configs" / "evaluate"
CONFIGS = {
    path.stem.removeprefix("visual_explanations_"): yaml.safe_load(path.read_text())
    for path in sorted(FOLDER.glob("visual_explanations_*.yaml"))
}
FIGURES_5 = ("figure5_vgg16", "figure12_vgg16")
FIGURES_6 = ("figure6_resnet50", "figure6_vgg16")


def explainers(figure: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = CONFIGS[figure]["explainers"]
    return found


@pytest.fixture(scope="module")
def layers() -> dict[str, list[str]]:
    """The layers of both networks, with the input, from the image upwards."""
    return {
        name: ["input", *NetworkLayers(FrozenClassifier(**small)).names]
        for name, small in NETWORKS.items()  # their layers and names, few channels
    }


def singles(figure: str, start: str) -> list[str]:
    """Layers of the rows that have one, in the order of the rows' numbers."""
    rows = {name: given for name, given in explainers(figure).items() if name.startswith(start)}
    assert all(len(given["layers"]) == 1 for given in rows.values())
    return [rows[name]["layers"][0] for name in sorted(rows)]


@pytest.mark.parametrize("figure", CONFIGS)
def test_what_is_explained_is_the_class_whose_flip_is_measured(figure: str) -> None:
    config = CONFIGS[figure]
    assert config["target"] == "predicted"
    assert config["metrics"] == {"decision_flip": {"grid": "geometric"}}
    assert config["max_images"] == (2000 if figure in FIGURES_5 else 5000)
    assert explainers(figure)["saliency"] == {"channels": "sum_abs"}


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES_5)
def test_figure_5_has_every_layers_activities_and_biases(
    figure: str, layers: dict[str, list[str]]
) -> None:
    assert singles(figure, "activity_") == layers["vgg16"]
    assert singles(figure, "bias_") == layers["vgg16"][1:]  # the input has no bias
    for name, given in explainers(figure).items():
        kind = {"activity": "activity", "bias": "bias_attribution"}.get(name.split("_")[0])
        assert given.get("explainer") == kind
        assert given.get("signed", False) is False
        blocks = figure == "figure12_vgg16" and kind is not None
        assert given.get("upsampling") == ("nearest" if blocks else None)


@pytest.mark.parametrize("figure", FIGURES_6)
def test_figure_6_has_single_layers_and_unsigned_aggregates_of_all_depths(
    figure: str, layers: dict[str, list[str]]
) -> None:
    network = layers[CONFIGS[figure]["classifier"]["model"]]
    assert singles(figure, "single_") == network
    rows = explainers(figure)
    tops = {name: given for name, given in rows.items() if name.startswith("top_")}
    assert [given["layers"] for given in tops.values()] == list(range(2, len(network)))
    assert all(name == f"top_{given['layers']:02d}" for name, given in tops.items())
    assert rows["all_layers_and_input"]["layers"] == "all"
    assert rows["fullgrad_per_layer"] == {"explainer": "fullgrad", "per": "layer"}
    assert not any(given.get("signed") for given in rows.values())


def test_figures_9_and_10_compare_signed_maps_with_unsigned_ones_and_average_signed_ones(
    layers: dict[str, list[str]],
) -> None:
    rows, network = explainers("figure9_resnet50"), layers["resnet50"]
    assert singles("figure9_resnet50", "unsigned_") == network
    signed = {name: given for name, given in rows.items() if name.startswith("signed_")}
    single = [given["layers"][0] for given in signed.values() if isinstance(given["layers"], list)]
    tops = [given["layers"] for given in signed.values() if isinstance(given["layers"], int)]
    assert single == network
    assert tops == list(range(2, len(network)))
    for name, given in rows.items():
        # The paper's signed maps are upsampled plainly (supplement, equation 10).
        assert given.get("signed", False) == name.startswith("signed_")
        assert given.get("keep_sum", True) == (not name.startswith("signed_"))

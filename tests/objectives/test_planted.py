"""Maps find planted objects, and metrics see that they do, whatever is asked of the network."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_toys import LAYER, WORLDS, World, regression, segmentation
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines import ExtremalPerturbation, RealTimeSaliency, Saliency
from lit_iba.classifier import last_feature_map
from lit_iba.metrics import build_metric
from lit_iba.metrics.bounding_box import share_inside
from lit_iba.objectives import Custom
from lit_iba.statistics import INPUT

FAST: dict[str, dict[str, Any]] = {
    "per_sample_iba": {"steps": 30},
    "input_iba": {
        "gan": "none",
        "steps": 20,
        "feature_steps": 10,
        "copies": 4,
        "feature_copies": 4,
    },
    "saliency": {},
    "integrated_gradients": {"steps": 20},
    "grad_cam": {"layer": LAYER},
    "occlusion": {"tile": 4},
    "activity": {},
    "guided_backprop": {},
    "fido": {"steps": 20, "samples": 2, "cell": 2, "sparsity": 1e-2},
    "lime": {"superpixels": "grid", "side": 4, "samples": 200},
    "pda": {"sampler": "marginal", "window": 4, "samples": 2, "stride": 2},
    "captum": {"method": "GradientShap", "n_samples": 8, "baselines": 0.0},
    "deep_shap": {},
    "lrp_epsilon": {},
}
CHANCE = 4  # how many times better than a random map a map must be


def explained(name: str, world: World) -> Tensor:
    """Maps of a world's images for what is asked about them."""
    layer = f"network.{LAYER}" if world.classifier.output else LAYER
    given = FAST[name]
    if "layer" in given or "iba" in name:
        given = given | {"layer": layer}
    if "iba" in name:
        given = given | {"statistics": world.statistics(layer)}
    if name == "input_iba":
        given = given | {"input_statistics": world.statistics(INPUT)}
    if name == "pda":
        given = given | {"references": world.images}
    explainer = build_explainer(name, world.classifier, given)
    return explainer.attribute(world.images, world.targets).values


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("world", WORLDS)
def test_a_map_finds_the_planted_object(world: str, name: str) -> None:
    toy = WORLDS[world]()
    if name in ("deep_shap", "lrp_epsilon") and world in ("embedding", "segmentation"):
        reason = "linear function of the network's outputs|no propagation rule"
        with pytest.raises(InputError, match=f"({reason}).*integrated_gradients"):
            explained(name, toy)
        return
    found = share_inside(explained(name, toy), toy.planted).mean()
    chance = float(toy.planted.float().mean())
    if name == "lime":  # 200 samples of 64 squares say little
        assert float(found) > 2 * chance
    else:
        assert float(found) > max(0.3, CHANCE * chance)


@pytest.mark.parametrize("world", WORLDS)
def test_the_map_of_an_image_does_not_depend_on_its_batch(world: str) -> None:
    toy = WORLDS[world]()
    together = explained("per_sample_iba", toy)
    layer = f"network.{LAYER}" if toy.classifier.output else LAYER
    settings = FAST["per_sample_iba"] | {"layer": layer, "statistics": toy.statistics(layer)}
    explainer = build_explainer("per_sample_iba", toy.classifier, settings)
    alone = explainer.attribute(toy.images[3:4], toy.targets[3:4]).values
    torch.testing.assert_close(alone[0], together[3], rtol=1e-3, atol=1e-3)


METRICS: dict[str, tuple[dict[str, Any], int]] = {
    "degradation": ({"tile": 4, "points": 9}, 1),
    "insertion": ({"pixels_per_step": 64}, 1),
    "deletion": ({"pixels_per_step": 64}, -1),
    "sensitivity_n": ({"tile": 4, "points": 3, "masks": 40}, 1),
    "low_k_perturbation": ({"percentages": [20, 50, 80]}, -1),
    "decision_flip": ({"pixels_per_step": 32, "noise_maps": 1}, 1),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_metric_prefers_the_planted_object_to_its_opposite(world: str, name: str) -> None:
    toy, (settings, better) = WORLDS[world](), METRICS[name]
    right = toy.planted.float()
    score = {}
    for which, maps in (("right", right), ("wrong", -right)):
        metric = build_metric(name, settings)
        given = {"others": maps.flip(0)[:, None]} if name == "decision_flip" else {}
        metric.update(toy.classifier, toy.images, toy.targets, maps, **given)
        result = metric.compute()
        score[which] = result.extra.get("e_minus", result.score)
        objective = toy.classifier.objective
        said = (
            objective.probability_is,
            objective.score_is,
            objective.divergence_is,
            objective.decision_is,
        )
        assert any(words in metric.definition for words in said)
    assert better * (score["right"] - score["wrong"]) > 0.02


@pytest.mark.parametrize("world", WORLDS)
def test_the_points_of_curves_are_the_objectives_probability(world: str) -> None:
    toy = WORLDS[world]()
    metric = build_metric("insertion", {"pixels_per_step": 512, "target": "predicted"})
    rows = metric.judge(toy.classifier, toy.images, toy.targets, toy.planted.float())
    objective = toy.classifier.objective
    order = toy.planted.flatten(1).int().argsort(dim=1, descending=True, stable=True)
    shown = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :512], True)
    half = toy.images * shown.view(len(shown), 1, *toy.images.shape[-2:])
    for end, images in ((0, torch.zeros_like(toy.images)), (1, half), (-1, toy.images)):
        predicted = toy.classifier.targets(toy.images)
        expected = objective.probability(toy.classifier(images), predicted)
        torch.testing.assert_close(rows["probability"][:, end], expected, rtol=1e-4, atol=1e-4)


def test_what_compares_classes_is_refused_where_there_are_none() -> None:
    toy = regression()
    sentence = "other classes, .* 'regression' does not have; use"
    with pytest.raises(InputError, match=sentence):
        ExtremalPerturbation(toy.classifier, reward="contrastive")
    with pytest.raises(InputError, match=sentence):
        RealTimeSaliency(toy.classifier, ["body.1", "body.3"])


def test_any_loss_is_an_objective() -> None:
    """The regression, of two functions: the same maps."""
    toy = regression()
    custom = Custom(
        loss=lambda outputs, targets: 0.5 * ((outputs[:, 0] - targets) / 5).square(),
        score=lambda outputs, targets: outputs[:, 0],
        predicted=lambda outputs: outputs[:, 0],
    )
    same = FrozenClassifier(
        toy.classifier.model, objective=custom, preprocessing=toy.classifier.preprocessing
    )
    other = replace(toy, classifier=same)
    for name in ("per_sample_iba", "saliency", "occlusion"):
        assert torch.equal(explained(name, other), explained(name, toy))


def test_another_region_is_another_map() -> None:
    toy = segmentation()
    dark = toy.classifier.targets(toy.images, 2)
    maps = Saliency(toy.classifier).attribute(toy.images, dark).values
    assert float(share_inside(maps, dark >= 0).mean()) > 0.5
    assert float(share_inside(maps, toy.planted & (dark < 0)).mean()) < 0.3


def test_grad_cam_looks_at_features_where_outputs_have_positions_too() -> None:
    toy = segmentation()
    assert last_feature_map(toy.classifier) == "network.body"
    maps = build_explainer("grad_cam", toy.classifier).attribute(toy.images, toy.targets).values
    assert float(share_inside(maps, toy.planted).mean()) > 0.5


def test_stored_results_know_what_was_asked() -> None:
    toy = regression()
    asked = toy.classifier.identity["objective"]
    assert asked == {"name": "regression", "tolerance": 5.0, "index": 0}
    assert segmentation().classifier.identity["output"] == "out"
    assert "objective" not in FrozenClassifier("small_cnn", "random").identity

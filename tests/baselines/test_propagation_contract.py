"""What all propagation methods have in common: independence of the batch, no traces left behind,
and building from a config.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from propagation_toys import Residual, toy, toy_images

from lit_iba import FrozenClassifier, build_explainer
from lit_iba.baselines.patterns import Patterns
from lit_iba.data import ShardIndex, write_shards
from lit_iba.errors import InputError
from lit_iba.evaluation import StoredStatistics
from lit_iba.explainer import Explainer

NAMES = (
    "lrp_alpha1_beta0",
    "lrp_alpha0_beta1",
    "lrp_epsilon",
    "deep_shap",
    "pattern_attribution",
    "guided_backprop",
)


def built(name: str, classifier: FrozenClassifier) -> Explainer:
    settings: dict[str, Any] = {}
    if name == "pattern_attribution":
        settings["patterns"] = Patterns.estimate(classifier, toy_images(10, seed=4))
    if name == "deep_shap":
        settings |= {"background": toy_images(3, seed=4), "forward_batch_size": 4}
    return build_explainer(name, classifier, settings)


@pytest.mark.parametrize("name", NAMES)
def test_heatmaps_do_not_depend_on_the_batch_and_nothing_is_left_behind(name: str) -> None:
    classifier, images = toy(Residual), toy_images(5)
    state, given = copy.deepcopy(classifier.model.state_dict()), images.clone()
    explainer = built(name, classifier)
    together = explainer.attribute(given, target=torch.arange(5))
    for i in range(5):
        alone = explainer.attribute(given[i : i + 1], target=i)
        assert torch.allclose(together.values[i], alone.values[0], rtol=1e-9, atol=1e-12)
        if together.completeness is not None:
            assert torch.allclose(together.completeness[i], alone.completeness[0], atol=1e-10)
    assert torch.equal(given, images)
    assert not given.requires_grad
    for key, value in classifier.model.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in classifier.modules()
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind_when_a_pass_fails(name: str) -> None:
    classifier, images = toy(Residual), toy_images(2)
    explainer = built(name, classifier)
    before = explainer.attribute(images, target=1).values
    with pytest.raises((RuntimeError, InputError)):
        explainer.explain(images[:, :2], torch.zeros(2, dtype=torch.int64), [])  # two channels
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in classifier.modules()
    )
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    assert torch.equal(explainer.attribute(images, target=1).values, before)


@pytest.fixture
def shards(tmp_path: Path) -> ShardIndex:
    generator = np.random.default_rng(0)
    samples = []
    for i in range(9):
        path = tmp_path / "picture.png"
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        samples.append({"key": f"s{i}", "png": path.read_bytes(), "cls": i % 5})
    return write_shards(samples, tmp_path / "shards", "val", 4)


def test_patterns_and_backgrounds_come_from_the_runs_images(
    shards: ShardIndex, tmp_path: Path
) -> None:
    classifier = toy(Residual).float()
    surroundings = StoredStatistics(tmp_path / "statistics", shards, images=6, batch_size=2)
    images = toy_images(2).float()
    first = build_explainer("pattern_attribution", classifier, {}, surroundings)
    path = tmp_path / "statistics" / "patterns_linear.safetensors"
    written = path.stat().st_mtime_ns
    again = build_explainer("pattern_attribution", classifier, {}, surroundings)
    assert path.stat().st_mtime_ns == written
    values = first.attribute(images, target=1).values
    assert torch.equal(values, again.attribute(images, target=1).values)
    by_hand = Patterns.estimate(classifier, surroundings.images(classifier, 6))
    expected = build_explainer("pattern_attribution", classifier, {"patterns": by_hand}).attribute(
        images, target=1
    )
    assert torch.allclose(values, expected.values, rtol=1e-3, atol=1e-5 * float(values.abs().max()))

    found = build_explainer("deep_shap", classifier, {"background_images": 5}, surroundings)
    background = surroundings.images(classifier, 5)
    assert background.shape == (5, 3, 8, 8)
    heatmap = found.attribute(images, target=1)
    promised = classifier(images)[:, 1] - classifier(background)[:, 1].mean()
    assert torch.allclose(heatmap.total, promised, rtol=1e-4, atol=1e-5)

    with pytest.raises(InputError, match="measured on"):
        build_explainer(
            "pattern_attribution", classifier, {}, StoredStatistics(path.parent, shards, images=7)
        )
    with pytest.raises(InputError, match="no patterns_linear at"):
        build_explainer("pattern_attribution", classifier, {}, StoredStatistics(tmp_path, None))
    with pytest.raises(InputError, match="no statistics_data"):
        build_explainer(
            "deep_shap", classifier, {"background_images": 5}, StoredStatistics(tmp_path, None)
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_callers_autocast_changes_nothing(name: str) -> None:
    images = toy_images(2).float()
    wanted = built(name, toy(Residual).float()).attribute(images, 1).values
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(built(name, toy(Residual).float()).attribute(images, 1).values, wanted)

"""Correlations of maps by layer (figure 8) against hooks, and where they are certain."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_iba import FrozenClassifier
from lit_iba.activity import NetworkLayers, without_biases
from lit_iba.activity.similarity import layer_similarity, map_correlation, similarity_spread
from lit_iba.activity.zero_bias import bias_tensors, scale_biases
from lit_iba.classifier import SmallCNN
from lit_iba.classifier.preprocessing import Preprocessing


def biased() -> FrozenClassifier:
    torch.manual_seed(0)
    network = SmallCNN(width=4).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.bias.data.normal_(0, 0.5)
    preprocessing = Preprocessing(resize=None, crop=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    return FrozenClassifier(network, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return biased()


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def by_hand(network: FrozenClassifier, layer: str, image: torch.Tensor, target: int) -> np.ndarray:
    """Sum over channels of h * df/dh behind a module, by autograd and a hook."""
    kept: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.clone())
        return kept[0].clone()  # what follows may work in place

    hook = network.model.get_submodule(layer).register_forward_hook(keep)
    with torch.enable_grad():
        score = network.model(image.clone().requires_grad_())[0, target]
        (gradient,) = torch.autograd.grad(score, kept[0])
    hook.remove()
    return (kept[0] * gradient).sum(dim=1)[0].detach().numpy()


def test_the_correlation_with_another_network_is_that_of_maps_by_hand(
    classifier: FrozenClassifier,
) -> None:
    zero = without_biases(classifier)
    targets = torch.tensor([3, 7])
    found = layer_similarity(classifier, images(), targets, {"zero": zero})["zero"]
    layer = NetworkLayers.of(classifier).names[2]
    for i in range(2):
        first, second = (
            by_hand(network, layer, images()[i : i + 1], int(targets[i]))
            for network in (classifier, zero)
        )
        expected = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert abs(expected) < 0.9999
        assert float(found[layer][i]) == pytest.approx(expected, abs=1e-6)


def test_a_network_without_biases_is_like_itself_and_has_no_bias_map() -> None:
    zero = without_biases(biased())
    found = layer_similarity(zero, images(), torch.tensor([3, 7]), {"itself": zero})
    for layer, values in found["itself"].items():
        assert torch.allclose(values, torch.ones_like(values)), layer
    assert all(bool(values.isnan().all()) for values in found["bias"].values())


def test_the_spread_over_images_has_the_paper_s_percentiles(classifier: FrozenClassifier) -> None:
    half = without_biases(classifier)
    scale_biases(half.model, bias_tensors(classifier.model), 0.5)
    pictures = torch.randint(0, 255, (9, 3, 64, 64), dtype=torch.uint8)
    found = similarity_spread(classifier, pictures, {"half": half})
    assert found is not None
    normal = classifier.images(pictures)
    by_layer = layer_similarity(classifier, normal, classifier.targets(normal), {"half": half})
    assert list(found) == ["layers", "bias", "half"]
    for which, rows in by_layer.items():
        for place, layer in enumerate(found["layers"]):
            numbers = rows[layer].numpy()
            wanted = np.percentile(numbers[np.isfinite(numbers)], [10, 50, 90])
            for part, value in zip(("low", "median", "high"), wanted, strict=True):
                assert found[which][part][place] == pytest.approx(value, abs=1e-6)


def test_a_constant_map_correlates_with_nothing() -> None:
    flat, map_ = torch.full((1, 4, 4), 0.3), torch.rand(1, 4, 4)
    assert map_correlation(flat, map_).isnan().all()
    assert map_correlation(map_[:, :1, :1], map_[:, :1, :1]).isnan().all()


def test_small_differences_on_a_high_level_correlate_and_rounding_does_not() -> None:
    noise = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert float(map_correlation(noise, 100 + 1e-3 * noise)) == pytest.approx(1, abs=1e-6)
    constant = torch.full((1, 6, 6), 0.1) + 1e-9 * noise
    assert map_correlation(noise, constant).isnan().all()

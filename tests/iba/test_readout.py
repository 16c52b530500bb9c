"""The readout network against its plain form, and its independence of the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, ReadoutIBA
from lit_iba.statistics import estimate_layers

TAPS = ["layer1", "layer2", "layer3", "fc"]


def readout(classifier: FrozenClassifier, **settings: object) -> ReadoutIBA:
    """A readout with statistics and weights that make its maps vary."""
    samples = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    statistics = estimate_layers(classifier, TAPS, samples)
    torch.manual_seed(4)
    explainer = ReadoutIBA(classifier, "layer2", TAPS, statistics, hidden=(24, 16), **settings)
    with torch.no_grad():
        explainer.network.write.weight.mul_(1000)
        explainer.network.write.bias.zero_()
        explainer.network.bias.normal_()
    return explainer


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_convolving_before_the_resize_is_convolving_after_it(
    preset: str, small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = readout(small_classifier, preset=preset)
    network = explainer.network
    r, _, taps = explainer.split.observe(images)
    corners = preset == "reference"
    resized = []
    for i, name in enumerate(TAPS):
        standard = (taps[name] - network.get_buffer(f"tap_mean_{i}")) / network.get_buffer(
            f"tap_std_{i}"
        )
        if standard.ndim == 2:
            standard = standard[:, :, None, None].expand(-1, -1, 16, 16)
        resized.append(
            F.interpolate(standard, size=(16, 16), mode="bilinear", align_corners=corners)
        )
    weight = torch.cat([convolution.weight for convolution in network.read], dim=1)
    hidden = F.relu(
        F.conv2d(torch.cat(resized, dim=1), weight, network.bias)
    )  # on the concatenated, resized taps
    alpha = network.write(F.relu(network.mix(hidden)))
    alpha = alpha.clamp(-5, 5) if preset == "reference" else alpha
    alpha = alpha.detach()
    found = network(taps, explainer.layouts(r, taps, (64, 64))).detach()
    assert torch.allclose(found, alpha, rtol=1e-3, atol=1e-3 * float(alpha.abs().max()))
    assert alpha.std() > 0.1


def test_a_heatmap_is_bits_and_does_not_depend_on_the_batch(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = readout(small_classifier)
    heatmap = explainer.attribute(images)
    assert heatmap.unit == "bits"
    alone = explainer.attribute(images[2:3])
    assert torch.allclose(
        heatmap.values[2], alone.values[0], rtol=1e-4, atol=1e-5 * float(alone.values.max())
    )
    r, _, taps = explainer.split.observe(images)
    _, _, nats, _ = explainer.bottleneck(r, taps, explainer.layouts(r, taps, (64, 64)))
    assert torch.allclose(
        heatmap.total, nats.flatten(1).sum(dim=1) / torch.log(torch.tensor(2.0)), rtol=1e-4
    )


def test_dead_units_and_another_image_size_stay_finite(small_classifier: FrozenClassifier) -> None:
    explainer = readout(small_classifier)
    samples = torch.randn(8, 3, 64, 64)
    statistics = estimate_layers(small_classifier, TAPS, samples)
    for measured in statistics.values():
        measured.sum_of_squares[..., :3] = 0
        measured.nonzero[..., :3] = 0
    explainer.network.set_statistics(statistics)
    heatmap = explainer.attribute(torch.randn(2, 3, 80, 112))
    assert heatmap.values.shape == (2, 80, 112)
    assert torch.isfinite(heatmap.values).all()


def test_what_is_missing_is_named(small_classifier: FrozenClassifier, images: Tensor) -> None:
    with pytest.raises(InputError, match="has no statistics yet"):
        ReadoutIBA(small_classifier, "layer2", TAPS).attribute(images)
    with pytest.raises(
        InputError, match="names no readout layers for small_cnn; give layer and taps"
    ):
        ReadoutIBA(small_classifier)
    with pytest.raises(InputError, match="did you mean 'layer3'"):
        ReadoutIBA(small_classifier, "layer2", ["layer1", "layer4"])
    with pytest.raises(InputError, match="its settings are hidden"):
        ReadoutIBA(small_classifier, "layer2", TAPS, hiden=(1, 2))


def test_the_papers_layers_are_the_default() -> None:
    explainer = ReadoutIBA(FrozenClassifier("resnet50", "random"), hidden=(8, 8))
    assert (explainer.layer, explainer.taps) == (
        "layer1",
        ["layer1", "layer2", "layer3", "layer4", "fc"],
    )
    assert sum(c.in_channels for c in explainer.network.read) == 4840

"""The readout network against its plain form, and its independence of the batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, ReadoutIBA
from lit_iba.randomness import sample_generators
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


@pytest.mark.parametrize("preset", ["default", "reference", "reference_vgg16"])
def test_a_preset_has_the_noise_and_the_clamp_of_its_code(
    preset: str, small_classifier: FrozenClassifier, images: Tensor
) -> None:
    samples = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    measured = estimate_layers(small_classifier, TAPS, samples)
    measured["layer2"].nonzero[:16] = 0  # units that count as never active
    explainer = ReadoutIBA(small_classifier, "layer2", TAPS, measured, preset=preset)
    masked = explainer.masked_feature(images[:2], torch.zeros(2).long(), [])
    found, rms = measured["layer2"], measured["layer2"].rms_of_nonzero
    floor = 0.01 if preset == "default" else 1e-5**0.5
    if preset == "reference":
        mean, std = torch.zeros_like(found.mean), rms
    else:
        mean, std = found.mean, found.std
    active = found.active > 0.01 if preset == "default" else torch.ones_like(found.mean).bool()
    assert torch.allclose(masked.noise.mean, mean.float())
    assert torch.allclose(masked.noise.std, std.clamp_min(floor).float())
    assert torch.equal(masked.noise.active, active.float())
    # Z as the classifier's rest sees it: what is negative of it, and whether it may be.
    seen: list[Tensor] = []
    half = replace(
        masked,
        keep=torch.full_like(masked.keep, 0.2),
        drop=torch.full_like(masked.drop, 0.8),
        tail=lambda z, carried: seen.append(z) or masked.tail(z, carried),
    )
    half.logits(sample_generators(0, ["a", "b"], images.device))
    unit = torch.stack(
        [torch.randn(mean.shape, generator=g) for g in sample_generators(0, ["a", "b"], "cpu")]
    )
    noise = masked.noise
    z = torch.where(active, 0.2 * masked.r + 0.8 * (noise.mean + noise.std * unit), noise.mean)
    z = z.clamp_min(0) if preset == "reference" else z
    assert torch.allclose(seen[0], z, atol=1e-5)
    assert bool((seen[0] < 0).any()) == (preset != "reference")


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
    with pytest.raises(
        InputError, match="'hiden' is not a known setting of readout_iba; did you mean 'hidden'"
    ):
        ReadoutIBA(small_classifier, "layer2", TAPS, hiden=(1, 2))


@pytest.mark.slow
def test_the_papers_layers_are_the_default() -> None:
    explainer = ReadoutIBA(FrozenClassifier("resnet50", "random"), hidden=(8, 8))
    assert (explainer.layer, explainer.taps) == (
        "layer1",
        ["layer1", "layer2", "layer3", "layer4", "fc"],
    )
    assert sum(c.in_channels for c in explainer.network.read) == 4840


@pytest.mark.parametrize("hidden", [[8], [8, 4, 2], 8, [8, 0], [8.5, 4], "ab"])
def test_two_numbers_of_channels_are_wanted(
    small_classifier: FrozenClassifier, hidden: Any
) -> None:
    with pytest.raises(InputError, match=r"hidden(\[[01]\])? is .* must be"):
        ReadoutIBA(small_classifier, "layer2", ["layer2"], hidden=hidden)

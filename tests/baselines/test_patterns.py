"""Patterns against loops over patches, the property that they are for, and PatternAttribution by
hand.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from propagation_toys import SIDE, Clipped, Plain, Residual, dense, toy, toy_images
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.baselines.pattern_attribution import PatternAttribution
from lit_iba.baselines.patterns import Patterns, PatternStream


def pattern_of(weight: Tensor, patches: Tensor, outputs: Tensor, rectified: bool) -> Tensor:
    """Equations 6 and 9 for one neuron: weight (d,), patches (n, d), outputs (n,)."""
    chosen = outputs > 0 if rectified else torch.ones_like(outputs, dtype=torch.bool)
    x, y = patches[chosen], outputs[chosen]
    direction = (x * y[:, None]).mean(dim=0) - x.mean(dim=0) * outputs.mean()
    return direction / (weight @ direction)


def test_patterns_are_their_definition_patch_by_patch() -> None:
    classifier, images = toy(Plain), toy_images(12)
    found = Patterns.estimate(classifier, images, batch_size=5).tensors
    assert len(found) == 4
    conv1, _, pool, conv2, _ = classifier.model.features
    fc1, _, fc2 = classifier.model.classifier
    after1 = pool(conv1(images).relu())
    after2 = conv2(after1).relu().flatten(1)
    inputs = {
        "features_0": images,
        "features_3": after1,
        "classifier_0": after2,
        "classifier_2": fc1(after2).relu(),
    }
    layers = {"features_0": conv1, "features_3": conv2, "classifier_0": fc1, "classifier_2": fc2}
    for name, layer in layers.items():
        y = layer(inputs[name])
        if isinstance(layer, nn.Conv2d):
            patches = F.unfold(inputs[name], 3, padding=1).transpose(1, 2).flatten(0, 1)
            y = y.flatten(2).transpose(1, 2).flatten(0, 1)
        else:
            patches = inputs[name]
        for k, weight in enumerate(layer.weight):
            if (y[:, k] > 0).sum() < 2:
                continue
            wanted = pattern_of(
                weight.flatten(), patches, y[:, k], rectified=name != "classifier_2"
            )
            assert torch.allclose(found[name][k].flatten(), wanted, rtol=1e-6, atol=1e-9), (name, k)


def test_the_linear_estimator_is_a_regression_of_the_input_on_the_output() -> None:
    classifier, images = toy(Plain), toy_images(12)
    found = Patterns.estimate(classifier, images, estimator="linear").tensors["features_0"]
    layer = classifier.model.features[0]
    y = layer(images).flatten(2).transpose(1, 2).flatten(0, 1)
    patches = F.unfold(images, 3, padding=1).transpose(1, 2).flatten(0, 1)
    for k in range(4):
        joint = torch.cov(torch.cat([y[:, k : k + 1], patches], dim=1).T)
        assert torch.allclose(found[k].flatten(), joint[0, 1:] / joint[0, 0], rtol=1e-8)
    assert PatternStream(toy(Residual)).estimator == "linear"  # it has batch norms
    assert PatternStream(classifier).estimator == "two_component"
    with pytest.raises(InputError, match="estimator is 'best'"):
        PatternStream(classifier, "best")


@pytest.mark.slow
@given(seed=st.integers(0, 50), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_streams_can_be_cut_and_merged_anywhere(seed: int, sizes: list[int]) -> None:
    classifier, images = toy(Residual), toy_images(sum(sizes) + 6, seed=seed)
    whole = Patterns.estimate(classifier, images).tensors
    halves = [PatternStream(classifier) for _ in range(2)]
    for i, part in enumerate(images.split([6, *sizes])):
        halves[i % 2].update(part)
    halves[1].merge(halves[0])
    for name, pattern in halves[1].patterns().tensors.items():
        assert torch.allclose(
            pattern, whole[name], rtol=1e-6, atol=1e-8 * float(whole[name].abs().max())
        )


def test_the_pattern_of_linear_data_is_the_direction_of_the_signal() -> None:
    # x = a s + distractor, seen by a filter that cancels the distractor: w a = 1, w d = 0 (section
    # 3).
    generator = torch.Generator().manual_seed(0)
    size = 3 * SIDE * SIDE
    a, d, w = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3))
    w -= d * (w @ d) / (d @ d)
    w /= w @ a
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, 2)).double()
    with torch.no_grad():
        network[1].weight[0], network[1].weight[1] = w, w
        network[1].bias.copy_(torch.tensor([0.0, 3.0]))
    classifier = FrozenClassifier(network, preprocessing=Preprocessing(resize=None, crop=SIDE))
    s, noise = (torch.randn(4000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    noise -= s * (s.T @ noise) / (s.T @ s)
    patterns = Patterns.estimate(
        classifier, (s * a + 5 * noise * d).view(-1, 3, SIDE, SIDE), batch_size=500
    )
    (found,) = patterns.tensors.values()
    s_mean = float(s.mean())
    for pattern in found:
        # What is left of the distractor is its chance correlation with the signal in this sample.
        leak = 5 * float(-noise.mean() * s_mean / (s - s_mean).square().mean())
        assert torch.allclose(pattern, a + leak * d, atol=1e-9)
        assert F.cosine_similarity(pattern, a, dim=0) > 0.999
        assert F.cosine_similarity(w, a, dim=0) < 0.2


def test_weights_times_patterns_sum_to_one_additions_included() -> None:
    classifier = toy(Residual)
    explainer = PatternAttribution(classifier, Patterns.estimate(classifier, toy_images(20)))
    for name, product in explainer.products.items():
        sums = product.flatten(1).sum(dim=1)
        assert torch.allclose(sums[sums != 0], torch.ones_like(sums[sums != 0])), name
    assert any(product.shape == (6, 2) for product in explainer.products.values())


def test_the_attribution_is_propagated_by_hand() -> None:
    classifier, images = toy(Residual), toy_images(20)
    patterns = Patterns.estimate(classifier, images, estimator="two_component")
    m, image = classifier.model, images[2]
    p = patterns.tensors
    (add,) = (tensor for tensor in p.values() if tensor.shape == (6, 2))

    def through(layer: nn.Module, name: str, x: Tensor, arriving: Tensor) -> Tensor:
        """Each output's arriving value goes to the inputs by weight * pattern."""
        weight, _ = dense(_with(layer, layer.weight * p[name]), x)
        return (weight.T @ arriving.flatten()).view_as(x)

    with torch.no_grad():
        first = nn.utils.fusion.fuse_conv_bn_eval(m.conv1, m.bn1)
        a = first(image[None])[0]
        b, at = F.max_pool2d(a.relu(), 3, 2, 1, return_indices=True)
        c = m.conv2(b[None])[0]
        y = m.conv3(c.relu()[None])[0] + m.down(b[None])[0]
        z = m.conv4(m.bn4(y.relu()[None]))[0]
        mean = torch.cat([z.relu(), y.relu()]).mean(dim=(1, 2))
        start = torch.zeros(5, dtype=a.dtype)
        start[4] = 2 * m.fc(mean)[4] + 0.5
        r = through(m.fc, "fc", mean, start)[:, None, None].expand(11, 4, 4) / 16
        r = r[5:] + through(m.conv4, "conv4", y, r[:5] * (z > 0))
        r = r * (y > 0)
        r_left, r_right = add[:, 0, None, None] * r, add[:, 1, None, None] * r
        r_left = through(m.conv3, "conv3", c, r_left) * (c > 0)
        r = through(m.down, "down", b, r_right) + through(m.conv2, "conv2", b, r_left)
        r = _scattered(r, at, a)
        r = through(first, "conv1", image, r * (a > 0))
    found = PatternAttribution(classifier, patterns).attribute(images[2:3], target=4)
    assert torch.allclose(found.values[0], r.sum(dim=0), rtol=1e-9, atol=1e-12)
    assert found.completeness is None


def test_a_limit_that_is_reached_passes_nothing() -> None:
    classifier, images = toy(Clipped), toy_images(20)
    patterns = Patterns.estimate(classifier, images)
    assert PatternAttribution(classifier, patterns).attribute(images, target=1).values.any()
    classifier.model.conv2.bias.data.fill_(1e3)  # every output is above 6
    closed = PatternAttribution(
        classifier, Patterns(patterns.tensors, {"classifier": classifier.identity})
    )
    assert not closed.attribute(images, target=1).values.any()


def _with(layer: nn.Module, weight: Tensor) -> nn.Module:
    """The layer with another weight."""
    if isinstance(layer, nn.Linear):
        return _Function(lambda x: F.linear(x, weight))
    return _Function(lambda x: F.conv2d(x, weight, None, 1, layer.padding, 1, layer.groups))


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _scattered(values: Tensor, positions: Tensor, like: Tensor) -> Tensor:
    found = torch.zeros_like(like).flatten(1)
    for channel in range(len(values)):
        for v, i in zip(
            values[channel].flatten().tolist(), positions[channel].flatten().tolist(), strict=True
        ):
            found[channel, i] += v
    return found.view_as(like)


def test_patterns_survive_the_disk_and_belong_to_their_classifier(tmp_path: Path) -> None:
    classifier, path, images = toy(Residual), tmp_path / "p.safetensors", toy_images(8)
    patterns = Patterns.estimate(classifier, images, data="digits")
    patterns.save(path)
    loaded = Patterns.load(path, classifier)
    assert loaded.identity == {
        "classifier": classifier.identity,
        "data": "digits",
        "estimator": "linear",
    }
    from_file = build_explainer(
        "pattern_attribution", classifier, {"patterns": str(path)}
    ).attribute(images, target=1)
    assert torch.equal(
        from_file.values,
        PatternAttribution(classifier, patterns).attribute(images, target=1).values,
    )
    with pytest.raises(InputError, match="was made with Residual"):
        Patterns.load(path, toy(Residual, seed=1))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="damaged"):
        Patterns.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Patterns.load(tmp_path / "none")
    with pytest.raises(InputError, match="needs a pattern file"):
        build_explainer("pattern_attribution", classifier)


def test_nothing_to_estimate_from_is_refused() -> None:
    classifier = toy(Plain)
    with pytest.raises(InputError, match="no images"):
        Patterns.estimate(classifier, [])
    with pytest.raises(InputError, match="NaN or infinity"):
        Patterns.estimate(classifier, toy_images(2) * torch.inf)

"""Equation 13 for every layer, attributions against autograd written out, and the layers that are
found.
"""

import copy
import logging

import pytest
import torch
from activity_toys import InPlace, OutOfPlace, Untraceable, with_biases
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.activity import ActivityAttribution
from lit_iba.activity.decomposition import Decomposition, HookedActivity, layer_sums
from lit_iba.activity.layers import INPUT, NetworkLayers
from lit_iba.classifier.preprocessing import Preprocessing

TARGETS = torch.tensor([3, 71])


def double_images(size: int) -> Tensor:
    return torch.randn(
        2, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


def own(model: nn.Module) -> FrozenClassifier:
    return FrozenClassifier(
        model.double().eval().float(), preprocessing=Preprocessing(resize=None, crop=16)
    ).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg16", 13),
        ("resnet50", 17),
        ("googlenet", 12),
        ("mobilenet_v2", 19),
        ("squeezenet1_0", 10),
        ("alexnet", 5),
    ],
)
def test_activity_and_the_biases_above_add_up_to_the_class_score_at_every_layer(
    name: str, layers: int
) -> None:
    classifier, images = with_biases(name), double_images(96)
    expected, targets = classifier(images).max(dim=1)
    sums = layer_sums(classifier, images, targets)
    assert len(sums.layers) == layers + 1
    assert torch.allclose(sums.score, expected, rtol=1e-12)
    total = sums.activity + sums.bias_above
    assert ((total - expected[:, None]).abs() <= 1e-9 * expected.abs()[:, None]).all()
    assert (sums.error <= 1e-9).all()
    # Not for want of biases: in the input's decomposition they are a part of their own.
    assert (sums.bias_above[:, 0].abs() > 0.01 * sums.activity[:, 0].abs()).all()
    by_layer = torch.stack(list(sums.bias.values())).sum(dim=0)
    assert torch.allclose(by_layer, sums.bias_above[:, 0], rtol=1e-9)


class SpelledOut(nn.Module):
    """Batch norm in eval mode as its formula, whose gradient by the running mean autograd knows."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return (x - self.running_mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


def spelled_out(network: nn.Module) -> nn.Module:
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, SpelledOut(module))
    return network


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_bias_attributions_are_the_parameters_gradients_times_the_parameters(name: str) -> None:
    classifier, images = with_biases(name), double_images(64)
    sums = layer_sums(classifier, images[:1], TARGETS[:1])
    network = spelled_out(copy.deepcopy(classifier.model))
    parameters = {}
    for key, value in [*network.named_parameters(), *network.named_buffers()]:
        if key.endswith((".bias", ".running_mean")):
            parameters[key] = value.detach().clone().requires_grad_()
    score = torch.func.functional_call(network, parameters, (images[:1],))[0, 3]
    gradients = torch.autograd.grad(score, list(parameters.values()))
    expected = sum((p * g).sum() for p, g in zip(parameters.values(), gradients, strict=True))
    assert torch.allclose(sums.bias_above[0, 0], expected.detach(), rtol=1e-9)
    if name == "vgg11":
        layers = NetworkLayers(classifier)
        for node, owner in layers.owner.items():
            place = list(parameters).index(f"{node}.bias")
            single = (parameters[f"{node}.bias"] * gradients[place]).sum()
            assert torch.allclose(sums.bias[owner][0], single, rtol=1e-9), node


@pytest.mark.parametrize("layer", ["relu", "layer2.0", "layer4.1", "layer3.1.bn1"])
def test_activity_is_the_cut_features_times_their_gradient(layer: str) -> None:
    classifier, images = with_biases("resnet18"), double_images(64)
    layers = NetworkLayers(classifier)
    found = Decomposition(layers, [layer]).attribute(images, TARGETS).activity[layer]
    split = classifier.split(layer)
    for i, target in enumerate(TARGETS.tolist()):
        r, carried = split.head(images[i : i + 1])
        r = r.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(split.tail(r, carried)[0, target], r)
        assert torch.allclose(found.product[i], (r * gradient)[0], rtol=1e-9, atol=1e-15)
        assert torch.allclose(found.map[i], (r * gradient)[0].sum(dim=0), rtol=1e-9, atol=1e-12)


def test_in_place_reused_and_functional_operations_are_right() -> None:
    torch.manual_seed(0)
    plain = OutOfPlace()
    tricky = InPlace()
    tricky.load_state_dict(plain.state_dict())
    images, targets = double_images(16), torch.tensor([1, 2])
    expected = layer_sums(own(plain), images, targets)
    classifier = own(tricky)
    found = layer_sums(classifier, images, targets)
    assert torch.allclose(
        found.score, classifier(images).gather(1, targets[:, None])[:, 0], rtol=1e-12
    )
    assert len(found.layers) == len(expected.layers) == 3
    assert torch.allclose(found.activity, expected.activity, rtol=1e-9)
    assert torch.allclose(found.bias_above, expected.bias_above, rtol=1e-9)
    assert (found.error <= 1e-12).all()
    assert (expected.error <= 1e-12).all()


def test_a_pass_leaves_network_and_images_as_they_were() -> None:
    classifier, images = with_biases("resnet18"), double_images(64)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    given = images.clone()
    layers = NetworkLayers(classifier)
    passes = Decomposition(layers, [INPUT, *layers.names], list(layers.bias_nodes))
    passes.attribute(given, TARGETS)
    with pytest.raises(RuntimeError):
        passes.attribute(given[:, :2], TARGETS)
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    assert not any(
        m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in classifier.modules()
    )


def test_weights_that_change_later_count() -> None:
    """The graph shares the network's tensors: randomised or replaced weights are seen."""
    classifier, images = with_biases("resnet18"), double_images(64)
    layers = NetworkLayers(classifier)
    passes = Decomposition(layers, ["relu"], list(layers.bias_nodes))
    first = passes.attribute(images, TARGETS)
    classifier.model.load_state_dict({k: v * 0.9 for k, v in classifier.model.state_dict().items()})
    second = passes.attribute(images, TARGETS)
    assert not torch.allclose(first.score, second.score)
    assert torch.allclose(
        second.score, classifier(images).gather(1, TARGETS[:, None])[:, 0], rtol=1e-12
    )
    assert not torch.allclose(first.bias["bn1"].total, second.bias["bn1"].total)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg11", [f"features.{i}" for i in (1, 4, 7, 9, 12, 14, 17, 19)]),
        ("resnet18", ["relu", *[f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]]),
        (
            "squeezenet1_1",
            ["features.1", *[f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)], "classifier.2"],
        ),
        ("small_cnn", ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.1", "layer3.2"]),
        (
            "shufflenet_v2_x0_5",
            [
                "conv1",
                *[f"stage{i}.{j}" for i, n in ((2, 4), (3, 8), (4, 4)) for j in range(n)],
                "conv5",
            ],
        ),
    ],
)
def test_layers_are_found(name: str, expected: list[str]) -> None:
    layers = NetworkLayers(FrozenClassifier(name, "random"))
    assert layers.names == expected
    assert not layers.inexact
    assert all(layers.is_complete(name) for name in [INPUT, *expected])


def test_an_attention_network_has_layers_but_no_completeness(
    caplog: pytest.LogCaptureFixture,
) -> None:
    classifier = FrozenClassifier("mobilenet_v3_small", "random")
    layers = NetworkLayers(classifier)
    assert "Hardswish" in layers.inexact
    assert not layers.is_complete("features.3")
    images = torch.randn(2, 3, 64, 64)
    sums = layer_sums(classifier, images, TARGETS)
    assert sums.error.isnan().all()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            heatmap = build_explainer("activity", classifier, {"layers": 2}).attribute(images)
    assert heatmap.completeness is None
    assert heatmap.values.std() > 0
    assert sum("completeness does not hold" in record.message for record in caplog.records) == 1


def test_what_goes_past_a_layer_leaves_it_incomplete() -> None:
    classifier = with_biases("resnet18")
    layers = NetworkLayers(classifier)
    assert not layers.is_complete("layer1.0.bn1")
    assert layers.is_complete("layer1.0")
    with pytest.raises(InputError, match="did you mean 'layer1"):
        layers.node("layer11")
    with pytest.raises(InputError, match="'input', which is no layer"):
        NetworkLayers(classifier, ["input", "layer1"])
    assert NetworkLayers(classifier, ["layer4", "layer1"]).names == ["layer1", "layer4"]


def test_classes_chosen_in_inference_mode_are_decomposed_too(images: Tensor) -> None:
    """As a caller makes them who lets the classifier choose."""
    plain, untraceable = OutOfPlace(), Untraceable()
    untraceable.load_state_dict(plain.state_dict())
    traced, hooked = (FrozenClassifier(network) for network in (plain, untraceable))
    with torch.inference_mode():
        chosen = traced(images[:2]).argmax(dim=1)
    expected = layer_sums(traced, images[:2], chosen.clone())
    found = layer_sums(traced, images[:2], chosen)
    assert torch.equal(found.activity, expected.activity)
    by_hooks = HookedActivity(hooked, ["input"]).attribute(images[:2], chosen)
    assert torch.allclose(
        by_hooks.activity["input"].total, expected.activity[:, 0], rtol=1e-3, atol=1e-4
    )


class GivesTwo(nn.Module):
    """A block that returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.convolution(x)
        return y, y * 2


class WithAPair(nn.Module):
    """A network of such a block, which no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.block = GivesTwo()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.block(x if x.abs().sum() > 0 else x + 1)
        return (first + second).mean(dim=(2, 3))


def test_a_module_that_gives_more_than_one_tensor_is_refused_by_name(images: Tensor) -> None:
    classifier = FrozenClassifier(WithAPair().eval())
    with pytest.raises(InputError, match=r"'block' .* gives a tuple, not one tensor"):
        HookedActivity(classifier, ["block"]).attribute(images[:2], torch.tensor([0, 1]))
    inside = HookedActivity(classifier, ["block.convolution"])
    assert inside.attribute(images[:2], torch.tensor([0, 1])).activity


class Padded(nn.Module):
    """A wrapper that pads, with a skip in its own forward around the network inside."""

    def __init__(self, mode: str, value: float, module: nn.Module | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))
        self.head, self.module = nn.Linear(3, 80), module
        self.settings = {"mode": mode, **({"value": value} if mode == "constant" else {})}

    def forward(self, x: Tensor) -> Tensor:
        padded = self.module or (lambda x: nn.functional.pad(x, (2, 0, 1, 1), **self.settings))
        x = padded(x)
        return self.head(torch.relu(self.net(x) + x[..., 1:-1, 1:-1]).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("mode", "value", "module"),
    [
        ("constant", 0.0, None),
        ("constant", 0.0, nn.ZeroPad2d(1)),
        ("reflect", 0.0, None),
        ("", 0.0, nn.ReplicationPad2d(1)),
    ],
)
def test_padding_and_a_wrappers_own_skip_are_linear(
    mode: str, value: float, module: nn.Module | None, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    classifier, images = own(Padded(mode, value, module)), double_images(16)
    assert (layer_sums(classifier, images, TARGETS).error <= 1e-9).all()
    for name in ("activity", "fullgrad"):
        completeness = build_explainer(name, classifier).attribute(images, TARGETS).completeness
        assert completeness is not None
        assert (completeness <= 1e-9).all()
    assert not caplog.records


@pytest.mark.parametrize(
    ("module", "named"), [(None, "pad"), (nn.ConstantPad2d(1, 0.5), "ConstantPad2d")]
)
def test_padding_with_a_number_is_named(module: nn.Module | None, named: str) -> None:
    assert NetworkLayers(own(Padded("constant", 0.5, module))).inexact == [named]


def test_a_network_is_searched_for_layers_once_for_all_explainers() -> None:
    classifier = FrozenClassifier("small_cnn", "random")
    first, second = (ActivityAttribution(classifier, layers=n) for n in (1, 2))
    assert first.network_layers is second.network_layers
    named = ActivityAttribution(classifier, layers=1, network_layers=["layer1", "layer2"])
    assert named.network_layers.names == ["layer1", "layer2"]
    with torch.no_grad():
        next(classifier.model.parameters()).mul_(2)
    assert ActivityAttribution(classifier, layers=1).network_layers is not first.network_layers

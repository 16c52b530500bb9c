"""A cut must change nothing: head and tail together give the network's own logits, for any layer of
any network.
"""

import pytest
import torch
import torchvision
from slim_networks import slim
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.positions import find_axes
from lit_iba.classifier.split import repeat_carried
from lit_iba.classifier.traced import TracedNetwork

CUTS = [
    ("resnet50", "layer2", "BCHW"),
    ("resnet18", "layer2.0.conv1", "BCHW"),  # in the middle of a residual block
    ("resnet18", "layer2.0.bn2", "BCHW"),  # right before the in-place addition
    ("vgg11", "features.8", "BCHW"),  # a convolution whose output an in-place ReLU overwrites
    ("alexnet", "features.8", "BCHW"),
    ("densenet121", "features.denseblock2.denselayer3.conv1", "BCHW"),
    ("googlenet", "inception4a.branch2.0.conv", "BCHW"),
    ("squeezenet1_1", "features.6", "BCHW"),
    ("shufflenet_v2_x0_5", "stage3", "BCHW"),
    ("mobilenet_v3_small", "features.5.block.1", "BCHW"),
    ("efficientnet_b0", "features.4", "BCHW"),
    ("regnet_y_400mf", "trunk_output.block2", "BCHW"),
    ("convnext_tiny", "features.3", "BCHW"),
    ("vit", "encoder.layers.encoder_layer_5", "BTC"),
    ("swin", "features.3.1.attn", "BHWC"),
]
NARROW = ("resnet", "vgg", "alexnet", "densenet", "googlenet", "squeezenet", "shufflenet")


def network_of(name: str) -> nn.Module:
    """Torchvision's architecture, with few channels where that can be had."""
    if name == "vit":
        return torchvision.models.VisionTransformer(224, 32, 6, 4, 64, 128)
    if name == "swin":
        return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [3, 6], [7, 7])
    if name.startswith(NARROW):
        return slim(name)
    return torchvision.models.get_model(name, weights=None)


@pytest.mark.parametrize(("name", "layer", "kind"), CUTS)
def test_head_and_tail_give_the_logits_of_the_whole_network(
    name: str, layer: str, kind: str
) -> None:
    torch.manual_seed(0)
    model = network_of(name).eval().requires_grad_(False)
    size = 224 if name.startswith(("vit", "swin")) else 96
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = model(images)
        network = TracedNetwork(model)
        split = network.split(layer, taps=[layer])
        r, carried = split.head(images)
        before = r.clone()
        assert torch.allclose(split.tail(r, carried), expected, atol=1e-5)
        assert torch.equal(r, before), "the tail overwrote its input"
        copies = split.tail(torch.cat([r] * 3), repeat_carried(carried, 3))
        assert torch.allclose(copies, expected.repeat(3, 1), atol=1e-4)
        r2, carried2, taps = split.observe(images)
        assert torch.equal(taps[layer], r)
        assert torch.allclose(split.tail(r2, carried2), expected, atol=1e-5)
    axes = find_axes(network, layer, r.shape, images[:1], shape_of=(size, size))
    assert axes.layout(r.shape, (size, size)).kind == kind


def test_a_tap_in_front_of_an_in_place_relu_is_not_rectified() -> None:
    model = slim("vgg11")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tap = TracedNetwork(model).taps(["features.3", "features.8"])(images)["features.3"]
        expected = model.features[3](model.features[:3](images).clone())
    assert (expected < 0).any()
    assert torch.allclose(tap, expected, atol=1e-5)


class Untraceable(nn.Module):
    """Control flow on values: torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=4), nn.Conv2d(4, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        if x.mean() > 1e9:
            x = x * 2
        return self.second(x.relu()).mean(dim=(2, 3))


def test_an_untraceable_network_is_cut_with_hooks(caplog: pytest.LogCaptureFixture) -> None:
    classifier = FrozenClassifier(Untraceable(), preprocessing=Preprocessing(resize=None, crop=32))
    images = torch.randn(2, 3, 32, 32)
    split = classifier.split("first", taps=["first", "second"])
    classifier.split("second")
    assert sum("cannot be traced" in message for message in caplog.messages) == 1
    expected = classifier(images)
    r, carried = split.head(images)
    assert torch.allclose(split.tail(r, carried), expected)
    doubled = split.tail(torch.cat([r, r * 2]), repeat_carried(carried, 2))
    assert torch.allclose(doubled[:2], expected)
    assert not torch.allclose(doubled[2:], expected)
    _, _, taps = split.observe(images)
    assert torch.allclose(taps["first"], r)
    assert isinstance(classifier.cuttable, HookedNetwork)


def test_what_gives_several_tensors_is_no_layer() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            one, other = self.conv(images).chunk(2, dim=1)
            return self.fc((one * other).mean(dim=(2, 3)))

    classifier = FrozenClassifier(Halves(), preprocessing=Preprocessing(resize=None, crop=8))
    assert "chunk" not in classifier.layers()
    for layer in classifier.layers()[:-1]:
        classifier.split(layer)
    with pytest.raises(InputError, match=r"'chunk' of Halves is tuple, where a feature map"):
        classifier.split("chunk")


def test_a_mistyped_layer_lists_the_nearest_names() -> None:
    classifier = FrozenClassifier("resnet18", "random")
    with pytest.raises(
        InputError, match=r"'layer5' is not a known layer of resnet18; did you mean .*'layer4'"
    ):
        classifier.split("layer5")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 201, 192), Layout("BTC", 14, 14, 5)),
        ((2, 7, 14, 768), Layout("BHWC", 7, 14)),
        ((2, 64, 28, 56), Layout("BCHW", 28, 56)),
    ],
)
def test_a_grid_can_be_undone(shape: tuple[int, ...], layout: Layout) -> None:
    values = torch.randn(shape)
    assert layout.grid(values).shape[-2:] == (layout.height, layout.width)
    assert torch.equal(layout.ungrid(layout.grid(values), layout.prefix_of(values)), values)


def test_a_cut_follows_its_classifier_to_another_device() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4], num_classes=5)
    classifier = FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=32))
    split = classifier.split("features.0")
    classifier._apply(torch.clone)  # what .to(device) does: buffers become new tensors
    with torch.no_grad():
        split.tail(*split.head(torch.randn(1, 3, 32, 32)))
    for name, buffer in split._tail.named_buffers():
        assert any(buffer is own for own in classifier.buffers()), f"{name} stayed behind"


def test_folded_batch_norms_change_nothing_but_the_speed() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    classifier = FrozenClassifier(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split = classifier.split("layer2.0.conv1")
    r, carried = split.head(torch.randn(2, 3, 64, 64))
    expected = split.tail(r, carried)
    assert torch.allclose(
        split.folded_tail(r, carried), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )
    called = [
        [
            type(network.get_submodule(n.target))
            for n in network.graph.nodes
            if n.op == "call_module"
        ]
        for network in (split._tail, split._folded["tail"][1])
    ]
    counts = [modules.count(nn.BatchNorm2d) for modules in called]
    assert counts == [14, 1], "only the one right behind the cut has no convolution to go into"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_folded_tail_follows_its_classifier() -> None:
    classifier = FrozenClassifier("resnet18", "random")
    split, images = classifier.split("layer3"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        split.folded_tail(*split.head(images))
        classifier.double()
        r, carried = split.head(images.double())
        assert torch.allclose(split.folded_tail(r, carried), classifier(images.double()))

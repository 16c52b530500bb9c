"""Names of a traced network's layers, and where a cut is: a module that runs several times is cut
behind its last run, and no two things have one name.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.classifier import HookedNetwork, TracedNetwork, last_feature_map
from lit_iba.classifier.stages import feature_maps, usual_layer

SIZE = 32


class Tutorial(nn.Module):
    """The network of many a tutorial: one pooling, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2)
        self.conv2, self.fc = nn.Conv2d(6, 16, 5), nn.Linear(400, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        return self.fc(self.pool(F.relu(self.conv2(x))).flatten(1))


class OneReLU(nn.Module):
    """Three convolutions and one ReLU."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=inplace)
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, 2)
        self.conv3, self.fc = nn.Conv2d(16, 12, 3, 2), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.fc(self.relu(self.conv3(x)).mean((2, 3)))


class Twice(nn.Module):
    """A block that runs twice, and whose last step is not its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 8, 3), Looking(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.block(self.stem(x))).mean((2, 3)))


class Looking(nn.Module):
    """Gives its convolution and computes something else afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen = y.relu().sum()
        return y


class Names(nn.Module):
    """Modules whose names are those that repeated steps would get."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_1 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 8, 3)
        self.relu_1, self.fc = nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.conv(x))))
        return self.fc(self.relu_1(self.conv_1(x)).mean((2, 3)))


def frozen(model: nn.Module) -> FrozenClassifier:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=SIZE))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def at_last_run(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of class 3's logit at a module's last run, by a hook."""
    runs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        runs.append(output)
        return output.clone()

    handle = model.get_submodule(name).register_forward_hook(keep)
    logits = model(images.clone().requires_grad_())
    handle.remove()
    return runs[-1].detach(), torch.autograd.grad(logits[:, 3].sum(), runs[-1])[0]


@pytest.mark.parametrize(
    ("network", "name"),
    [(Tutorial(), "pool"), (OneReLU(), "relu"), (OneReLU(True), "relu"), (Twice(), "block")],
    ids=["pool", "relu", "in place", "block"],
)
def test_a_module_that_runs_several_times_is_cut_behind_its_last_run(network, name, images):
    classifier = frozen(network)
    feature, gradient = at_last_run(network, name, images)
    assert last_feature_map(classifier) == usual_layer(classifier) == name
    assert feature_maps(classifier)[name] == classifier.layout(name)
    r, _ = classifier.split(name).head(images)
    torch.testing.assert_close(r, feature)
    torch.testing.assert_close(classifier.taps([name])(images)[name], feature)
    hooked = HookedNetwork(classifier.model, images=images).split(name).head(images)[0]
    torch.testing.assert_close(r, hooked)
    cam = (gradient.mean((2, 3), keepdim=True) * feature).sum(1, keepdim=True).relu()
    wanted = F.interpolate(cam, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    found = build_explainer("grad_cam", classifier).attribute(images, 3).values
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_each_run_has_a_name_and_torchvisions_name_of_the_last_is_known(images):
    classifier = frozen(Tutorial())
    assert [name for name in classifier.layers() if name.startswith("pool")] == ["pool_0", "pool"]
    assert classifier.feature_shape("pool_0") == (6, 14, 14)
    assert classifier.feature_shape("pool_1") == classifier.feature_shape("pool") == (16, 5, 5)
    resnet = FrozenClassifier("resnet18", "random", preprocessing={"crop": SIZE})
    r = resnet.split("layer3.1.relu").head(images)[0]
    torch.testing.assert_close(r, at_last_run(resnet.model, "layer3.1.relu", images)[0])


def test_names_of_steps_are_those_of_no_module(images):
    classifier = frozen(Names())
    assert len(set(classifier.layers())) == len(classifier.layers())
    for name in ("conv", "conv_1", "relu_1"):
        found = classifier.split(name).head(images)[0]
        torch.testing.assert_close(found, at_last_run(classifier.model, name, images)[0])
    assert classifier.feature_shape("conv_0") == classifier.feature_shape("relu") == (3, 32, 32)


class Pair(nn.Module):
    """Gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, y.relu()


class OfPair(nn.Module):
    """Takes both tensors of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.fc = Pair(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.pair(x)
        return self.fc((one + other).mean((2, 3)))


def test_a_block_of_several_outputs_is_refused_as_a_layer():
    classifier = frozen(OfPair())
    with pytest.raises(InputError, match="'pair' of OfPair gives several values"):
        classifier.split("pair")
    with pytest.raises(InputError, match="gives several values"):
        classifier.taps(["pair"])
    assert classifier.feature_shape("pair.conv") == (8, 30, 30)


class Half(nn.Module):
    """One of two streams is without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.ReLU()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            other = self.two(x)
        return self.fc(self.relu(self.one(x) * other).mean((2, 3)))


def test_what_runs_without_gradients_does_so_in_every_method(images):
    network = Half()
    classifier, given = frozen(network), images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(network(given)[:, 3].sum(), given)
    (found,) = torch.autograd.grad(classifier.folded()(given)[:, 3].sum(), given)
    torch.testing.assert_close(found, wanted)
    split = classifier.split("relu")
    (found,) = torch.autograd.grad(split.tail(*split.head(given))[:, 3].sum(), given)
    torch.testing.assert_close(found, wanted)


class Blocks(nn.Module):
    """Two blocks, of which the first may have a backward hook."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.three, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.three(self.two(self.one(x))).mean((2, 3)))


HOOKS = {
    "of what it received": lambda part: part.register_full_backward_hook(
        lambda _m, received, _o: (-3 * received[0],)
    ),
    "of what arrives": lambda part: part.register_full_backward_pre_hook(
        lambda _m, arriving: (-3 * arriving[0],)
    ),
}


@pytest.mark.filterwarnings("ignore:For backward hooks to be called", "ignore:Full backward hook")
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["two", "two.0"])
def test_a_backward_hook_changes_every_gradient_that_passes_it(kind, place, images):
    torch.manual_seed(0)
    network, kept = Blocks(), {}
    HOOKS[kind](network.get_submodule(place))
    classifier, given = frozen(network), images.clone().requires_grad_()
    for layer in [name for name in ("one", "two", "two.0", "three") if name != place]:
        part = network.get_submodule(layer)
        handle = part.register_forward_hook(
            lambda _m, _i, output, layer=layer: kept.__setitem__(layer, output)
        )
        score = network(given)[:, 3].sum()
        handle.remove()
        (wanted,) = torch.autograd.grad(score, kept[layer])
        split = classifier.split(layer)
        r, carried = split.head(images)
        r = r.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(split.tail(r, carried)[:, 3].sum(), r)
        torch.testing.assert_close(found, wanted)
    (wanted,) = torch.autograd.grad(network(given)[:, 3].sum(), given)
    (found,) = torch.autograd.grad(classifier.folded()(given)[:, 3].sum(), given)
    torch.testing.assert_close(found, wanted)


class Switched(nn.Module):
    """A network that can be asked for more than its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8, 10)

    def forward(self, x: Tensor, features: bool = False, *more: Tensor, **named: Tensor) -> Tensor:
        kept = self.body(x)
        return kept if features or more or named else self.fc(kept.mean((2, 3)))


class Masked(Switched):
    """Another, which takes what is left out by name alone."""

    def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:  # type: ignore[override]
        kept = self.body(x) if mask is None else self.body(x) * mask
        return self.fc(kept.mean((2, 3)) * scale)


@pytest.mark.parametrize("kind", [Switched, Masked])
def test_arguments_that_have_a_default_have_it_in_the_graph(kind, images):
    network = kind()
    classifier = frozen(network)
    assert isinstance(classifier.cuttable, TracedNetwork)
    split = classifier.split("body")
    torch.testing.assert_close(split.tail(*split.head(images)), network(images))
    heatmap = build_explainer("deep_shap", classifier).attribute(images, 3)
    gained = network(images)[:, 3] - network(0 * images)[:, 3]
    torch.testing.assert_close(heatmap.total, gained, rtol=1e-3, atol=1e-5)

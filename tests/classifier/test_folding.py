"""What is folded, packed and fused is the network itself, whatever hangs on its modules or makes
their weights.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA, Preprocessing
from lit_iba.classifier.folding import fold_batch_norms
from lit_iba.classifier.fusing import fuse_convolutions, made_fast
from lit_iba.classifier.plain import plain_copy
from lit_iba.explainer import build_explainer

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
LAYER = "relu1"


class Net(nn.Module):
    """Convolutions, each with its batch norm and its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate((3, 8, 8), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, 8, 3, padding=1))
            self.add_module(f"bn{number}", nn.BatchNorm2d(8))
            self.add_module(f"relu{number}", nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)) + x)
        return self.fc(x.mean(dim=(2, 3)))


def network() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 3)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


def frozen(model: nn.Module) -> FrozenClassifier:
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=16))


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def all_fast_forms(
    classifier: FrozenClassifier, images: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """What each fast form gives, and what the network does."""
    split, wanted = classifier.split(LAYER, taps=["bn2"]), classifier(images)
    r, carried = split.head(images)
    r_seen, _, taps = split.folded_observe(images)
    whole = classifier.cuttable.whole()
    return {
        "head": (split.folded_head(images)[0], r),
        "tail": (split.folded_tail(r, carried), wanted),
        "observed": (r_seen, r),
        "tapped": (taps["bn2"], split.observe(images)[2]["bn2"]),
        "folded": (classifier.folded()(images), wanted),
        "made fast": (made_fast(whole)(images), wanted),
        "fused": (fuse_convolutions(fold_batch_norms(whole))(images), wanted),
    }


def check(classifier: FrozenClassifier, images: Tensor) -> None:
    with torch.no_grad():
        for name, (found, wanted) in all_fast_forms(classifier, images).items():
            gap = float((found - wanted).abs().max() / wanted.abs().max())
            assert gap < 1e-4, f"{name}: {gap:.2g} of the largest"


def hooked(name: str) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output: output.clamp(max=0.2)
        )

    return change


def hooked_before(name: str) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        model.get_submodule(name).register_forward_pre_hook(lambda _m, given: (given[0] * 2,))

    return change


def with_a_forward_of_its_own(name: str) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        module = model.get_submodule(name)
        usual = type(module).forward
        module.forward = lambda x: usual(module, x).clamp(max=0.2)

    return change


NAMES = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3", "relu3")
CHANGES = [
    *((f"hook of {name}", hooked(name)) for name in NAMES),
    *((f"pre-hook of {name}", hooked_before(name)) for name in NAMES),
    *((f"forward of {name}", with_a_forward_of_its_own(name)) for name in NAMES),
]


@pytest.mark.parametrize("change", [c for _, c in CHANGES], ids=[name for name, _ in CHANGES])
def test_what_changes_a_module_s_output_is_in_every_fast_form(
    change: Callable[[Net], None],
) -> None:
    plain, model, images = frozen(network()), network(), pictures()
    change(model)
    classifier = frozen(model)
    assert not torch.allclose(classifier(images), plain(images), rtol=1e-2)
    check(classifier, images)


def test_a_hook_that_comes_later_is_seen() -> None:
    classifier, images = frozen(network()), pictures()
    check(classifier, images)
    before = classifier(images)
    handle = classifier.model.bn2.register_forward_hook(
        lambda _m, _i, output: output.clamp(max=0.2)
    )
    assert not torch.allclose(classifier(images), before, rtol=1e-2)
    check(classifier, images)
    handle.remove()
    assert torch.equal(classifier(images), before)
    check(classifier, images)


class Absolute(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


def registered(module: nn.Module, *, name: str = "weight") -> None:
    nn.utils.parametrize.register_parametrization(module, name, Absolute())


def pruned(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.4)
    prune.l1_unstructured(module, "weight", 0.2)  # twice: a container of both


def pruned_bias(module: nn.Module) -> None:
    prune.random_unstructured(module, "bias", 0.4)


def absolute_bias(module: nn.Module) -> None:
    registered(module, name="bias")


REWEIGHTED = {
    "pruned": pruned,
    "pruned bias": pruned_bias,
    "parametrized": registered,
    "parametrized bias": absolute_bias,
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "older spectral norm": nn.utils.spectral_norm,
    "older weight norm": nn.utils.weight_norm,
}
EVERY = ("conv1", "conv2", "conv3", "fc")


@pytest.fixture(params=REWEIGHTED)
def reweighted(request: pytest.FixtureRequest) -> Net:
    model = network()
    for name in EVERY:
        REWEIGHTED[request.param](model.get_submodule(name))
    if "bias" in request.param or request.param in ("pruned", "parametrized"):
        for name in ("bn1", "bn2"):
            REWEIGHTED[request.param](model.get_submodule(name))
    return model.eval()


def twin(model: nn.Module) -> nn.Module:
    """A network of plain modules with the weights that this one computes with."""
    plain = network()
    model(pictures())  # weights made by hooks are made now
    for name, module in plain.named_modules():
        for which in ("weight", "bias"):
            if isinstance(getattr(module, which, None), Tensor):
                effective = getattr(model.get_submodule(name), which)
                getattr(module, which).data.copy_(effective.detach())
    return plain


def test_weights_that_are_made_are_the_ones_that_count(reweighted: Net) -> None:
    classifier, images = frozen(reweighted), pictures()
    torch.testing.assert_close(classifier(images), twin(reweighted)(images))
    check(classifier, images)
    before = classifier(images)
    with torch.no_grad():
        for p in reweighted.conv2.parameters():
            p.mul_(torch.linspace(-2, 2, len(p.flatten())).reshape(p.shape))
    torch.testing.assert_close(classifier(images), twin(reweighted)(images))
    assert not torch.allclose(classifier(images), before, rtol=1e-2)
    check(classifier, images)


SETTINGS = {
    "integrated_gradients": {"steps": 5},
    "lrp_epsilon": {},
    "deep_shap": {},
    "fullgrad": {},
}


def test_their_maps_are_those_of_the_plain_network(reweighted: Net) -> None:
    images, targets = pictures(), torch.tensor([1, 3])
    made, plain = frozen(reweighted), frozen(twin(reweighted))
    for name, settings in SETTINGS.items():
        maps = [
            build_explainer(name, classifier, settings).attribute(images, target=targets)
            for classifier in (made, plain)
        ]
        torch.testing.assert_close(
            maps[0].values, maps[1].values, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    maps = []
    for classifier in (made, plain):
        statistics = FeatureStatistics.estimate(classifier, LAYER, pictures(8))
        explainer = PerSampleIBA(classifier, layer=LAYER, statistics=statistics, copies=2, steps=3)
        maps.append(explainer.attribute(images, target=targets).values)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-3)


def test_a_plain_copy_has_nothing_of_the_module_but_its_function(reweighted: Net) -> None:
    for name in EVERY:
        module = copy.deepcopy(frozen(reweighted).model.get_submodule(name))
        module.register_forward_hook(lambda _m, _i, output: output * 0)
        with torch.no_grad():  # weights that hooks made are old now
            for parameter in module.parameters():
                parameter.mul_(torch.linspace(1, 2, parameter.numel()).view(parameter.shape))
        made = plain_copy(module)
        assert type(made) in (nn.Conv2d, nn.Linear)
        assert set(made.state_dict()) == {"weight", "bias"}
        x = torch.randn(2, 8, 8, 8) if name != "conv1" else pictures()
        module(x)  # weights are made
        wanted = type(made).forward(module, x)
        torch.testing.assert_close(made(x), wanted)

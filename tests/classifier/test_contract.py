"""The contract with the user's model (docs/contract.md): it is never changed, what is explained is
what it computes now, and what cannot be explained is refused in one sentence.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.explainer import Explainer

SIZE = Preprocessing(resize=None, crop=16)


class Net(nn.Module):
    """Two convolutions, each with its batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.relu = nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
        self.fc = nn.Linear(8, 4)
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(images)))
        x = self.relu(self.second(x) - self.scale.square())
        return self.fc(x.mean(dim=(2, 3)))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    made = Net()
    with torch.no_grad():  # larger than the defaults, so that maps differ by more than rounding
        for parameter in made.parameters():
            parameter.mul_(2).add_(0.1)
    return made


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def frozen(model: nn.Module, **given: Any) -> FrozenClassifier:
    return FrozenClassifier(model, **{"preprocessing": SIZE, **given})


def iba(classifier: FrozenClassifier, layer: str = "relu", **given: Any) -> Explainer:
    statistics = FeatureStatistics.estimate(classifier, layer, images(8))
    settings = {"layer": layer, "statistics": statistics, "steps": 3, "copies": 2} | given
    return build_explainer("per_sample_iba", classifier, settings)


def made(name: str, classifier: FrozenClassifier) -> Explainer:
    if name == "per_sample_iba":
        return iba(classifier, "norm")
    return build_explainer(name, classifier)


# What is made of weights.


def load(model: nn.Module) -> None:
    model.load_state_dict(net(1).state_dict())


def assign(model: nn.Module) -> None:
    model.load_state_dict(net(1).state_dict(), assign=True)


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    F.cross_entropy(model(images()), torch.tensor([1, 2])).backward()
    optimizer.step()


def past_autograd(model: nn.Module) -> None:
    for mine, other in zip(model.parameters(), net(1).parameters(), strict=True):
        mine.data.copy_(other.data)


def a_buffer(model: Net) -> None:
    model.scale.fill_(0.8)


@pytest.mark.parametrize("change", [load, assign, step, past_autograd, a_buffer])
def test_what_is_madeof_weights_follows_them(change: Callable[[nn.Module], None]) -> None:
    model = net()
    classifier = frozen(model)
    names = ("grad_cam", "integrated_gradients", "guided_backprop", "activity")
    old = {name: made(name, classifier) for name in names}
    used = iba(classifier, "norm")
    before = {name: explainer.attribute(images(), 1) for name, explainer in old.items()}
    used.attribute(images(), 1)
    identity = classifier.identity
    change(model)
    model.eval()
    fresh = frozen(copy.deepcopy(model))
    for name, explainer in [*old.items(), ("per_sample_iba", made("per_sample_iba", classifier))]:
        found = explainer.attribute(images(), 1).values
        wanted = made(name, fresh).attribute(images(), 1).values
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5, msg=name)
        if name in before:
            assert not torch.allclose(before[name].values, wanted, rtol=1e-2), f"{name}: too weak"
    assert classifier.identity["sha256"] == fresh.identity["sha256"] != identity["sha256"]
    with torch.inference_mode():
        torch.testing.assert_close(classifier.folded()(images()), fresh(images()))
    with pytest.raises(InputError, match="the statistics was made with"):
        used.attribute(images(), 1)


@pytest.mark.parametrize(
    "name", ["saliency", "grad_cam", "activity", "integrated_gradients", "occlusion"]
)
def test_a_callers_autocast_changes_no_map(name: str) -> None:
    wanted = made(name, frozen(net())).attribute(images(), 1).values
    classifier = frozen(net())
    with torch.autocast("cpu", torch.bfloat16):
        found = made(name, classifier).attribute(images(), 1).values
    assert found.dtype is torch.float32
    assert torch.equal(found, wanted)


def test_the_users_module_stays_as_it_is_and_can_go_on_training() -> None:
    model = net()
    model.first.weight.requires_grad_(False)
    state, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    classifier = frozen(model)
    explainer = iba(classifier, "norm")
    first = explainer.attribute(images()).values
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert classifier.model.fc.weight.data_ptr() == model.fc.weight.data_ptr(), "memory is shared"
    model.eval().train()
    assert torch.equal(explainer.attribute(images()).values, first), "their train() reached us"
    step(model)
    assert all(p.grad is None for p in classifier.parameters())


@pytest.mark.parametrize("target", [1.7, "cat", [0.5, 1], True, float("nan")])
def test_a_target_that_is_no_class_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match=r"target is .* must be"):
        build_explainer("saliency", frozen(net())).attribute(images(), target)


@pytest.mark.parametrize(
    "target",
    [
        [1, 2],
        (1, 2),
        np.array([1, 2]),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([[1.0], [2.0]]),
        torch.eye(4)[[1, 2]],
        np.eye(4, dtype=bool)[[1, 2]],
        torch.eye(4).int()[[1, 2]].tolist(),
    ],
    ids=lambda target: type(target).__name__,
)
def test_targets_are_numbers_of_classes_or_one_hot_of_any_kind(target: Any) -> None:
    explainer = build_explainer("saliency", frozen(net()))
    wanted = explainer.attribute(images(), torch.tensor([1, 2])).values
    assert torch.equal(explainer.attribute(images(), target).values, wanted)


def test_what_is_nearly_one_hot_is_refused() -> None:
    explainer = build_explainer("saliency", frozen(net()))
    for target in (torch.ones(2, 4), torch.zeros(2, 4), torch.eye(4)[[1, 2]] * 0.5):
        with pytest.raises(InputError, match="target"):
            explainer.attribute(images(), target)


def test_a_module_that_gets_other_layers_is_refused() -> None:
    model = net()
    explainer = build_explainer("saliency", frozen(model))
    model.fc = nn.Linear(8, 7)
    with pytest.raises(InputError, match=r"another shape .* make a new classifier"):
        explainer.attribute(images())


# What is refused.


class OneOutput(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :1]


class Decision(Net):
    def forward(self, images: Tensor) -> Tensor:
        return F.one_hot(super().forward(images).argmax(dim=1), 4)


class Detached(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Noisy(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.dropout(images, 0.5))


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))


class LeavesOut(Net):
    """Gives minus infinity for a class that it never chooses."""

    noise = 0.0

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(F.dropout(images, self.noise))
        return torch.cat([logits[:, :3], torch.full_like(logits[:, 3:], -torch.inf)], dim=1)


class LeavesOutAndDraws(LeavesOut):
    noise = 0.5


class LeavesOutOtherClasses(Net):
    def forward(self, images: Tensor) -> Tensor:
        logits, alone = super().forward(images), len(images) == 1
        return logits.masked_fill(torch.arange(4) == int(alone), -torch.inf)


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(net().eval(), {nn.Linear})


def diverged() -> nn.Module:
    made = net()
    with torch.no_grad():
        made.second.weight[0, 0, 0, 0] = torch.nan  # one is enough
    return made


REFUSED = [
    (OneOutput, "has one output, .*multilabel.*regression"),
    (Decision, "gives torch.int64, which has no gradient"),
    (diverged, "gives NaN for ordinary images, .*diverged: load others"),
    (Noisy, "gives other logits each time"),
    (LeavesOutAndDraws, "gives other logits each time"),
    (LeavesOutOtherClasses, "when another one is beside it"),
    (Coupled, "when another one is beside it, .*track_running_stats=True"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 1)),
        r"cannot take images \(2, 3, 16, 16\)",
    ),
    (lambda: nn.LazyConv2d(3, 1), "has no values yet; load its weights"),
    (lambda: lambda images: images, "is a function, but must be a name or a torch.nn.Module"),
    (lambda: torch.export.export(net().eval(), (images(),)), "a program of torch.export"),
    (lambda: quantized(), "is quantised while it runs"),
    (lambda: torch.export.export(net().eval(), (images(),)).module(), "a program of torch.export"),
]


@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_breaks_the_contract_is_refused(model: Callable[[], Any], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=message):
        frozen(model())


def test_a_class_may_be_left_out_by_minus_infinity() -> None:
    torch.manual_seed(0)
    classifier = frozen(LeavesOut())
    assert classifier.targets(images(), None).max() < 3
    saliency = build_explainer("saliency", classifier, {})
    assert saliency.attribute(images(), target=1).values.amax() > 0


@pytest.mark.parametrize("name", ["per_sample_iba", "activity", "saliency", "integrated_gradients"])
def test_outputs_without_a_gradient_are_refused(name: str) -> None:
    classifier = frozen(Detached())
    explainer = made(name, classifier)
    with pytest.raises(InputError, match="outputs without a gradient"):
        explainer.attribute(images(), 1)
    assert build_explainer("occlusion_8", classifier).attribute(images()).values.shape[0] == 2


def test_a_network_that_says_the_same_of_every_image_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As torchvision's vision transformers do before their training: their heads begin at zero."""
    network = SmallCNN()
    for parameter in network.fc.parameters():
        nn.init.zeros_(parameter)
    FrozenClassifier(network, preprocessing=Preprocessing(resize=64, crop=64))
    assert "the same for two different images" in caplog.text
    caplog.clear()
    FrozenClassifier("small_cnn", "random")
    assert caplog.text == ""

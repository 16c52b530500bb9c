"""The canonical copy computes what the network computes, leaves it alone, and refuses what has no
rule.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from propagation_toys import SIDE, Clipped, Plain, Residual, toy, toy_images
from slim_networks import slim
from torch import Tensor, nn

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.baselines.canonical import canonical
from lit_iba.baselines.steps import Add, Affine, Ceiling


def wrapped(model: nn.Module) -> FrozenClassifier:
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=SIDE)).double()


@pytest.mark.parametrize("network", [Plain, Residual, Clipped])
def test_the_copy_computes_the_same(network: type[nn.Module]) -> None:
    classifier, images = toy(network), toy_images()
    made = canonical(classifier)
    assert torch.allclose(made(images), classifier(images), rtol=1e-12, atol=1e-13)
    used = [node.target for node in made.graph.nodes if node.op == "call_module"]
    assert {node.op for node in made.graph.nodes} == {"placeholder", "call_module", "output"}
    assert len(used) == len(set(used))
    assert not any(getattr(module, "inplace", False) for module in made.modules())


def test_batch_norms_are_folded_additions_and_relus_explicit() -> None:
    kinds = [type(module) for module in canonical(toy(Residual)).children()]
    assert nn.BatchNorm2d not in kinds
    assert (kinds.count(Add), kinds.count(nn.ReLU)) == (1, 4)
    assert (
        kinds.count(Affine) == 3
    )  # the batch norm that follows a ReLU, the factor 2 and the offset


def test_a_relu6_is_a_relu_and_a_limit_and_a_called_batch_norm_is_folded() -> None:
    classifier, images = toy(Clipped), toy_images()
    kinds = [type(module) for module in canonical(classifier).children()]
    assert (kinds.count(nn.ReLU), kinds.count(Ceiling), kinds.count(Affine)) == (2, 2, 0)
    clipped = [
        x.amax() for x in canonical(classifier).conv2(torch.full((1, 4, 6, 6), 6.0).double())
    ]
    assert max(clipped) > 6, "the limit is reached"
    assert torch.equal(classifier.model.bn1.weight, toy(Clipped).model.bn1.weight)
    larger = torch.cat([images, images[:, :, :3]], dim=2)[..., :7]  # other amounts of padding
    assert torch.allclose(canonical(classifier)(larger), classifier.model(larger), rtol=1e-12)


NARROW = ("resnet", "squeezenet", "densenet", "mnasnet")


@pytest.mark.parametrize(
    "name",
    [
        *("small_cnn", "resnet18", "squeezenet1_1", "densenet121", "mnasnet0_5", "regnet_x_400mf"),
        *("mobilenet_v2", "efficientnet_lite0"),
    ],
)
def test_architectures_of_many_kinds_are_copied_exactly(name: str) -> None:
    network = slim(name) if name.startswith(NARROW) else name
    classifier = FrozenClassifier(
        network,
        None if isinstance(network, nn.Module) else "random",
        preprocessing=Preprocessing(resize=None, crop=64),
    ).double()
    images = torch.randn(
        2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    wanted = classifier(images)
    assert (canonical(classifier)(images) - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_the_network_stays_as_it_was() -> None:
    classifier = toy(Residual)
    hook = classifier.model.conv1.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(classifier.model.state_dict())
    made = canonical(classifier).float()
    for parameter in made.parameters():
        parameter.data.zero_()
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, state[name])
        assert value.dtype == state[name].dtype
    assert classifier.model.relu.inplace
    assert not any(module._forward_hooks for module in made.modules())
    hook.remove()


class Overwrites(nn.Module):
    """Reads a value again after something has overwritten it, and throws results away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        F.relu(x, inplace=True)
        y = x.add_(1.5)
        torch.sigmoid(x)  # leads nowhere
        return self.fc((x + y / 4).mean(dim=(2, 3)))


def test_what_is_overwritten_is_read_as_overwritten() -> None:
    classifier, images = wrapped(Overwrites()), toy_images()
    wanted = classifier(images)
    assert torch.allclose(canonical(classifier)(images), wanted, rtol=1e-12)
    assert not torch.allclose(
        classifier.model.fc(1.25 * classifier.model.conv(images).mean(dim=(2, 3))), wanted
    )


class With(nn.Module):
    """A convolution, some operation, a linear layer."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.conv, self.operation, self.fc = nn.Conv2d(3, 4, 3), operation, nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.operation(self.conv(images)).mean(dim=(2, 3)))


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(dim=(2, 3), keepdim=True)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(dim=1)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Padded(nn.Module):
    def __init__(self, mode: str, value: float | None = None) -> None:
        super().__init__()
        self.mode, self.value = mode, value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 1, 1, 1), self.mode, self.value)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > -1e9 else -x


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (nn.GELU(), "'GELU' at 'operation'"),
        (nn.Hardswish(), "'Hardswish' at 'operation'"),
        (nn.Hardtanh(-1, 1), "'Hardtanh' at 'operation'"),
        (nn.ConstantPad2d(1, 0.5), "'ConstantPad2d' at 'operation'"),
        (Padded("reflect"), "'pad' at 'operation"),
        (Padded("constant", 1.0), "'pad' at 'operation"),
        (Attention(), "'softmax' at 'operation"),
        (Gate(), "'mul' at 'operation"),
        (Scaled(), "'mul' at 'operation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'Conv2d' at 'operation'"),
        (Branches(), "cannot be traced"),
    ],
)
def test_operations_without_a_rule_are_refused_by_name(operation: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message + ".*integrated_gradients"):
        canonical(wrapped(With(operation)))


def test_what_a_trace_does_not_show_is_noticed() -> None:
    classifier = wrapped(With(nn.ReLU()))
    handle = classifier.model.conv.register_forward_hook(
        lambda _module, _inputs, output: output + 1
    )
    with pytest.raises(InputError, match="gives other logits"):
        canonical(classifier)
    handle.remove()


class Pooled(nn.Module):
    """Pooling of a size that the network computes from shapes, and the same by a number."""

    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 4, 3, padding=1), pool, nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.pool(F.relu(self.conv(images)) - 0.3, images))
        return self.fc(x.mean(dim=(2, 3)))


COMPUTED = {
    "a part of the size": (
        lambda x, _: F.avg_pool2d(x, x.size()[2:]),
        lambda x, _: F.avg_pool2d(x, SIDE),
    ),
    "an entry of the shape": (
        lambda x, _: F.avg_pool2d(x, x.shape[-1]),
        lambda x, _: F.avg_pool2d(x, SIDE),
    ),
    "arithmetic on sizes, by keyword": (
        lambda x, _: F.avg_pool2d(input=x, stride=1, kernel_size=(x.size(2) // 2, x.size(3) - 5)),
        lambda x, _: F.avg_pool2d(x, (SIDE // 2, SIDE - 5), 1),
    ),
    "a number of positions": (
        lambda x, _: F.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 4)),
        lambda x, _: F.adaptive_avg_pool2d(x, (SIDE // 2, SIDE // 4)),
    ),
}


@pytest.mark.parametrize(("computed", "by_number"), COMPUTED.values(), ids=list(COMPUTED))
def test_averages_over_windows_of_a_computed_size_are_those_of_a_number(
    computed: Callable[..., Tensor], by_number: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    first = Pooled(computed)
    second = Pooled(by_number)
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    for name in ("lrp_epsilon", "lrp_alpha1_beta0", "deep_shap"):
        maps = [
            build_explainer(name, wrapped(model)).attribute(images, target=2).values
            for model in (first, second)
        ]
        assert torch.allclose(maps[0], maps[1], rtol=1e-9, atol=1e-12), name
    larger = torch.randn(2, 3, 2 * SIDE, 2 * SIDE, dtype=torch.float64)
    classifier = wrapped(first)
    assert torch.allclose(canonical(classifier)(larger), classifier(larger), rtol=1e-9)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x, images: F.avg_pool2d(x, images.shape[-1] // 2),
        lambda x, _: F.max_pool2d(x, x.shape[-1]),
        lambda x, _: F.adaptive_max_pool2d(x, (x.shape[2] // 2, 1)),
    ],
)
def test_other_computed_sizes_are_refused_by_name(pool: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match=r"Pooled has '\w+_pool2d' at '\w+_pool2d', for which"):
        canonical(wrapped(Pooled(pool)))

"""An operation is called exact only where activity and biases add up, however its arguments are
given; all others are named.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FrozenClassifier, Preprocessing, build_explainer
from lit_iba.activity.decomposition import layer_sums
from lit_iba.activity.layers import NetworkLayers

SIDE = 8
Operation = Callable[["Around", Tensor], Tensor]


class Around(nn.Module):
    """An operation between two convolutions, with constants (8, 1, 1) and (8,) to use."""

    def __init__(self, operation: Operation, module: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.operation, self.module = nn.Linear(8, 5), operation, module
        self.p, self.q = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8))
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.operation(self, self.first(images)))
        return self.fc(torch.relu(x).mean(dim=(2, 3)))

    def whole(self, x: Tensor) -> Tensor:
        """The constant of the shape of x."""
        return self.p.expand(x.shape[0], 8, SIDE, SIDE)


def frozen(model: nn.Module) -> FrozenClassifier:
    return FrozenClassifier(model.double(), preprocessing=Preprocessing(resize=None, crop=SIDE))


def around(operation: Operation, module: nn.Module | None = None) -> FrozenClassifier:
    torch.manual_seed(0)
    return frozen(Around(operation, module))


def double_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def last(x: Tensor) -> Tensor:
    """Channels last, and back by the same."""
    return x.permute(0, 3, 2, 1)


EXACT: dict[str, Operation] = {
    "x + p": lambda s, x: x + s.p,
    "p + x": lambda s, x: s.p + x,
    "add(x, p)": lambda s, x: torch.add(x, s.p),
    "add(x, other=p)": lambda s, x: torch.add(x, other=s.p),
    "add(input=x, other=p)": lambda s, x: torch.add(input=x, other=s.p),
    "add(input=p, other=x)": lambda s, x: torch.add(input=s.p, other=x),
    "x.add(other=p)": lambda s, x: x.add(other=s.p),
    "x.add_(p)": lambda s, x: x.add_(s.p),
    "x - p": lambda s, x: x - s.p,
    "p - x": lambda s, x: s.p - x,
    "sub(x, other=p)": lambda s, x: torch.sub(x, other=s.p),
    "sub(input=p, other=x)": lambda s, x: torch.sub(input=s.p, other=x),
    "mul(x, other=p)": lambda s, x: torch.mul(x, other=s.p),
    "mul(input=p, other=x)": lambda s, x: torch.mul(input=s.p, other=x),
    "div(input=x, other=p)": lambda s, x: torch.div(input=x, other=s.p),
    "div(x, 2, rounding_mode=None)": lambda s, x: torch.div(x, 2, rounding_mode=None),
    "matmul(input=x, other=w)": lambda s, x: last(torch.matmul(input=last(x), other=s.w)),
    "cat([x, p])": lambda s, x: torch.cat([x, s.whole(x)], 1)[:, 4:12],
    "cat(tensors=[x, p], dim=1)": lambda s, x: torch.cat(tensors=[x, s.whole(x)], dim=1)[:, 4:12],
    "cat(tensors=(p, x), dim=-3)": lambda s, x: torch.cat(tensors=(s.whole(x), x), dim=-3)[:, :8],
    "cat([x, p], axis=1)": lambda s, x: torch.cat([x, s.whole(x)], axis=1)[:, 4:12],
    "cat of what is split": lambda s, x: torch.cat(x.split(4, 1), 1),
    "stack([x, p])": lambda s, x: torch.stack([x, s.whole(x)], 1).sum(1),
    "stack(tensors=[p, x], dim=-1)": lambda s, x: torch.stack(tensors=[s.whole(x), x], dim=-1).mean(
        -1
    ),
    "stack([x, x])": lambda s, x: torch.stack([x, x]).sum(0),
    "conv2d by keyword": lambda s, x: F.conv2d(input=x, bias=s.q, weight=s.w.view(8, 8, 1, 1)),
    "linear by keyword": lambda s, x: last(F.linear(input=last(x), bias=s.q, weight=s.w)),
    "batch_norm by keyword": lambda s, x: F.batch_norm(
        input=x, running_var=s.q.abs() + 1, running_mean=s.q, bias=s.q
    ),
    "hardtanh by keyword": lambda s, x: F.hardtanh(input=x, max_val=0.2, min_val=-0.1),
    "pad by keyword": lambda s, x: F.pad(input=x, pad=(1, 1, 1, 1)),
    "reflection by keyword": lambda s, x: F.pad(input=x, pad=(1, 1, 1, 1), mode="reflect"),
    "flatten by keyword": lambda s, x: torch.flatten(input=x, start_dim=2).view(x.shape),
    "sizes": lambda s, x: x.view(x.size(0), x.size(1), -1).reshape(-1, 8, x.size(2), SIDE),
}


@pytest.mark.parametrize("operation", EXACT.values(), ids=list(EXACT))
@pytest.mark.parametrize("gates", ["differentiated", "detached"])
def test_what_is_called_exact_adds_up(operation: Operation, gates: Any) -> None:
    classifier = around(operation)
    assert NetworkLayers.of(classifier, None, gates).inexact == []
    sums = layer_sums(classifier, double_images(), torch.tensor([1, 3]), None, gates)
    assert (sums.error <= 1e-9).all()


def gate(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2, 3), keepdim=True)


INEXACT: dict[str, tuple[Operation, str]] = {
    "a floor": (lambda s, x: torch.div(x, 1, rounding_mode="floor") + x, "div"),
    "a factor of an addition": (lambda s, x: torch.add(x, s.p, alpha=2), "add"),
    "a factor of a subtraction": (lambda s, x: torch.sub(x, s.p, alpha=2), "sub"),
    "a square by keyword": (lambda s, x: torch.mul(input=x, other=x), "mul"),
    "a division by itself": (lambda s, x: torch.div(s.p, other=x * x + 1), "div"),
    "torch's own batch norm": (
        lambda s, x: torch.batch_norm(x, s.q, s.q, s.q, s.q.abs(), False, 0.1, 1e-5, True),
        "batch_norm",
    ),
    "a number around": (lambda s, x: F.pad(input=x, value=0.5, pad=(1, 1, 1, 1)), "pad"),
}


@pytest.mark.parametrize(("operation", "name"), INEXACT.values(), ids=list(INEXACT))
def test_what_is_not_known_to_be_exact_is_named(operation: Operation, name: str) -> None:
    classifier = around(operation)
    for gates in ("differentiated", "detached"):
        assert name in NetworkLayers.of(classifier, None, gates).inexact
    completeness = (
        build_explainer("fullgrad", classifier).attribute(double_images(), target=1).completeness
    )
    assert completeness is None or completeness.isnan().all()


OF_THE_IMAGES: dict[str, tuple[Operation, str]] = {
    "weights of the images": (lambda s, x: torch.prelu(x, x[0, :, 0, 0] * 0 + s.q), "prelu"),
    "a bias of the images": (
        lambda s, x: F.linear(last(x), s.w, x[:1].sum() * 0 + s.q).permute(0, 3, 2, 1),
        "linear",
    ),
    "a scale of the images": (
        lambda s, x: F.group_norm(x, 2, s.q, x[0, :, 0, 0] * 0 + s.q),
        "group_norm",
    ),
}


@pytest.mark.parametrize(("operation", "name"), OF_THE_IMAGES.values(), ids=list(OF_THE_IMAGES))
def test_parameters_that_follow_from_the_images_are_no_constants(
    operation: Operation, name: str
) -> None:
    for gates in ("differentiated", "detached"):
        assert name in NetworkLayers.of(around(operation), None, gates).inexact


DETACHED: dict[str, tuple[Operation, list[str]]] = {
    "weights that are all that is left": (lambda s, x: torch.softmax(x, 1) * s.p, ["softmax"]),
    "weights and something else": (lambda s, x: torch.softmax(x, 1) * s.p + x, []),
    "a product by keyword": (lambda s, x: torch.mul(x, other=torch.sigmoid(x)), []),
    "torch's own norms": (
        lambda s, x: torch.group_norm(torch.layer_norm(x, [SIDE, SIDE]), 2, s.q, s.q),
        [],
    ),
    "a mask of the images": (
        lambda s, x: F.scaled_dot_product_attention(x, x, x, attn_mask=gate(x)),
        ["scaled_dot_product_attention"],
    ),
}


@pytest.mark.filterwarnings("ignore:.*mask")
@pytest.mark.parametrize(("operation", "names"), DETACHED.values(), ids=list(DETACHED))
def test_what_is_left_where_gates_are_detached(operation: Operation, names: list[str]) -> None:
    classifier = around(operation)
    assert NetworkLayers.of(classifier, None, "detached").inexact == names
    sums = layer_sums(classifier, double_images(), torch.tensor([1, 3]), None, "detached")
    assert sums.error.isnan().all() if names else (sums.error <= 1e-9).all()


def plus_one(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output + 1


def halved(_module: nn.Module, gradients: tuple[Tensor], _outputs: object) -> tuple[Tensor]:
    return (gradients[0] / 2,)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: m.second.register_forward_hook(plus_one), "Conv2d"),
        (lambda m: m.module.register_forward_hook(plus_one), "ReLU"),
        (lambda m: m.fc.register_forward_pre_hook(lambda _, given: (given[0] * 2 + 1,)), "Linear"),
        (lambda m: m.second.register_full_backward_hook(halved), "Conv2d"),
        (lambda m: setattr(m.module, "forward", lambda x: x.relu() + 1), "ReLU"),
    ],
)
@pytest.mark.parametrize("gates", ["differentiated", "detached"])
def test_a_module_with_hooks_is_named(change: Callable[[Any], Any], kind: str, gates: Any) -> None:
    torch.manual_seed(0)
    model = Around(lambda s, x: s.module(x), nn.ReLU())
    assert NetworkLayers.of(frozen(model), None, gates).inexact == []
    change(model)
    classifier = frozen(model)
    assert NetworkLayers.of(classifier, None, gates).inexact == [f"{kind} with hooks"]
    sums = layer_sums(classifier, double_images(), torch.tensor([1, 3]), None, gates)
    assert sums.error.isnan().all()

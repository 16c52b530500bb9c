"""A copy of a classifier in a form that propagation rules can be stated for.

Every step is a module of its own, of few kinds: convolution, linear layer, ReLU, max and average
pooling, flattening, addition, concatenation, a multiple plus a constant, an upper limit (a ReLU6 is
a ReLU and a limit) and zeros around a picture. Nothing works in place, no module runs twice, batch
norms are folded. Libraries that hook the user's modules instead are silently wrong on additions,
in-place and reused ReLUs; here a network that does not fit is refused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.parametrize import type_before_parametrizations

from lit_iba.baselines.propagation import MEANS
from lit_iba.baselines.shapes import from_shape, nodes_in, shape_of
from lit_iba.baselines.steps import Add, Affine, Ceiling, Concatenate, GlobalMean, SizedMean
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.folding import called_batch_norm, fold_batch_norms, graph_module
from lit_iba.classifier.plain import plain_copy
from lit_iba.classifier.same_padding import SamePadding
from lit_iba.classifier.traced import TracedNetwork
from lit_iba.classifier.tracing import works_in_place
from lit_iba.errors import InputError

TOLERANCE = (
    1e-3  # of the largest logit; folding a batch norm moves float32 logits by about 1e-5 of it
)
ELSEWHERE = (
    "use a method that treats the network as a whole, such as integrated_gradients, smoothgrad "
    "or occlusion"
)


def canonical(classifier: FrozenClassifier) -> fx.GraphModule:
    """The classifier's function as a graph of modules of the kinds named above; its own modules are
    neither used nor changed.

    Args:
        classifier: The network.

    Returns:
        Images (B, 3, H, W) to logits (B, K), of the classifier's dtype, on its device. The graph
        has ``call_module`` nodes only, each with a module of its own by the node's name, whose
        arguments are the nodes that feed it.

    Raises:
        InputError: The objective's score is not linear, the network cannot be traced, or has an
            operation of another kind, which is named.
    """
    with classifier.undisturbed():
        return _canonical(classifier)


def _canonical(classifier: FrozenClassifier) -> fx.GraphModule:
    if not classifier.objective.linear:
        raise InputError(
            "propagation distributes a score that is a linear function of the network's outputs, "
            f"which that of the objective {classifier.objective.record['name']!r} is not; "
            f"{ELSEWHERE}"
        )
    shape = (2, classifier.channels, *classifier.preprocessing.size)
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    probe = probe.to(next(classifier.model.parameters(), probe))
    try:
        traced = TracedNetwork(classifier.model, classifier.name, leaves=[SamePadding])
        network = graph_module(classifier.model, traced.graph)
        with torch.no_grad():
            ShapeProp(network).propagate(probe.clone())
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{classifier.name} cannot be traced ({what}), which propagation needs; {ELSEWHERE}"
        ) from error
    copied = _without_batch_norms(_Translation(classifier, traced).network().to(probe))
    with torch.no_grad():
        wanted, found = classifier(probe), copied(probe)
    if not (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max():
        raise InputError(
            f"the canonical copy of {classifier.name} gives other logits than the network itself, "
            f"so that it must do something which its trace does not show; {ELSEWHERE}"
        )
    return copied


def _without_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    folded = fold_batch_norms(network)
    for node in folded.graph.nodes:
        if node.op == "call_module":
            module = folded.get_submodule(node.target)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module = Affine(*_scale_and_shift(module))
            setattr(folded, node.name, module)
            node.target = node.name
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded.eval().requires_grad_(False)


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm in eval mode multiplies by and adds, each (C,)."""
    assert norm.running_mean is not None  # for the type checker: _batch_norm refuses those
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    return scale, (0 if norm.bias is None else norm.bias) - scale * norm.running_mean


class _Translation:
    """One pass over a traced graph with shapes from ``ShapeProp``, building the canonical one."""

    def __init__(self, classifier: FrozenClassifier, traced: TracedNetwork) -> None:
        self.classifier, self.traced = classifier, traced
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.found: dict[fx.Node, fx.Node] = {}  # where the value of a node of the trace is now

    def network(self) -> fx.GraphModule:
        """The canonical network, batch norms still in it."""
        for node in self.traced.nodes:
            if node.op == "placeholder":
                self.found[node] = self.graph.placeholder(node.name)
            elif node.op == "output":
                self.graph.output(self.found[node.args[0]])
            elif shape_of(node) is not None and node.op != "get_attr":
                in_place = bool(node.args) and works_in_place(self.traced.model, node, node.args[0])
                if node.users or in_place:
                    self.found[node] = self._translated(node)
                if (
                    in_place
                ):  # whoever reads the argument from here on reads what it was overwritten with
                    self.found[node.args[0]] = self.found[node]
        return fx.GraphModule(self.modules, self.graph)

    def _translated(self, node: fx.Node) -> fx.Node:
        inputs = [source for source in _sources(node) if shape_of(source) is not None]
        step: nn.Module | None
        if node.op == "call_module":
            module = self.traced.model.get_submodule(str(node.target))
            own = type_before_parametrizations(module)
            kind, step = own.__name__, MODULES[own](module) if own in MODULES else None
        elif norm := called_batch_norm(self.traced.model, node):
            kind, step, inputs = "batch_norm", plain_copy(norm), inputs[:1]
        else:
            kind = (
                node.target
                if isinstance(node.target, str)
                else getattr(node.target, "__name__", str(node.target))
            )
            step = FUNCTIONS[kind.strip("_")](node) if kind.strip("_") in FUNCTIONS else None
        if step is None or not all(source in self.found for source in inputs):
            raise InputError(
                f"{self.classifier.name} has {kind!r} at "
                f"{self.traced.names.get(node, node.name)!r}, for which there is no propagation "
                f"rule; {ELSEWHERE}"
            )
        if isinstance(step, nn.Identity):
            return self.found[inputs[0]]
        if isinstance(step, nn.Flatten) and shape_of(node) == shape_of(inputs[0]):
            return self.found[inputs[0]]
        made = tuple(self.found[source] for source in inputs)
        for number, part in enumerate(step if isinstance(step, nn.Sequential) else [step]):
            name = node.name if number == 0 else f"{node.name}_part_{number}"
            made = (self.graph.create_node("call_module", name, made, name=name),)
            made[0].target = made[0].name  # torch.fx changes a name that there is already
            self.modules[made[0].name] = part
        return made[0]


def _sources(node: fx.Node) -> list[fx.Node]:
    return nodes_in((node.args, node.kwargs))


# What a module of the classifier becomes: a copy without the user's hooks, an equal one, or None
# where no rule is known.


def _copied(module: nn.Module) -> nn.Module:
    clone = copy.deepcopy(module)
    for name, value in vars(nn.Module()).items():
        if "hooks" in name:
            setattr(clone, name, copy.copy(value))
    vars(clone).pop("forward", None)  # one of its own, which the probe shows to be missing
    return clone


def _convolution(module: nn.Module) -> nn.Module | None:
    made = plain_copy(module)
    assert isinstance(made, nn.Conv2d)
    if made.padding_mode != "zeros":
        return None
    if isinstance(made.padding, str):
        before, after = (
            made._reversed_padding_repeated_twice[::2],
            made._reversed_padding_repeated_twice[1::2],
        )
        if before != after:
            return None
        made.padding = tuple(reversed(before))
    return made


def _batch_norm(module: nn.Module) -> nn.Module | None:
    return None if getattr(module, "running_mean", None) is None else plain_copy(module)


def _max_pool(module: nn.Module) -> nn.Module | None:
    return None if getattr(module, "return_indices", False) else _copied(module)


def _flatten_module(module: nn.Module) -> nn.Module | None:
    axes: tuple[Any, Any] = module.start_dim, module.end_dim
    return nn.Flatten() if axes in ((1, -1), (1, 3)) else None


def _clipped(module: nn.Module) -> nn.Module | None:
    low, high = float(module.min_val), float(module.max_val)  # type: ignore[arg-type]
    return nn.Sequential(nn.ReLU(), Ceiling(high)) if low == 0 < high else None


def _zeros(module: nn.Module) -> nn.Module | None:
    return _copied(module) if getattr(module, "value", 0) == 0 else None


MODULES: dict[type[nn.Module], Callable[[nn.Module], nn.Module | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: plain_copy,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: lambda _: nn.ReLU(),
    nn.ReLU6: _clipped,
    nn.Hardtanh: _clipped,
    nn.ZeroPad2d: _copied,
    nn.ConstantPad2d: _zeros,
    SamePadding: _copied,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveMaxPool2d: _max_pool,
    nn.AvgPool2d: _copied,
    nn.AdaptiveAvgPool2d: _copied,
    nn.Flatten: _flatten_module,
    nn.Identity: lambda _: nn.Identity(),
    nn.Dropout: lambda _: nn.Identity(),
    nn.Dropout1d: lambda _: nn.Identity(),
    nn.Dropout2d: lambda _: nn.Identity(),
}


# What a call of a function or a tensor's method becomes.


def _sum(node: fx.Node) -> nn.Module | None:
    shapes = [shape_of(source) for source in _sources(node)]
    if node.kwargs.get("alpha", 1) != 1:
        return None
    if len(shapes) == 2:
        return Add() if shapes[0] == shapes[1] else None
    numbers = [a for a in node.args if isinstance(a, int | float)]
    return Affine(torch.ones(1), torch.tensor([float(numbers[0])])) if numbers else None


def _multiple(node: fx.Node, number: Callable[[float], tuple[float, float]]) -> nn.Module | None:
    """Scale and shift by a number; for subtraction and division the number must come second."""
    if len(node.args) != 2 or not isinstance(node.args[1], int | float):
        return None
    scale, shift = number(float(node.args[1]))
    return Affine(torch.tensor([scale]), torch.tensor([shift]))


def _product(node: fx.Node) -> nn.Module | None:
    numbers = [a for a in node.args if isinstance(a, int | float)]
    return Affine(torch.tensor([float(numbers[0])]), torch.zeros(1)) if numbers else None


def _concatenation(node: fx.Node) -> nn.Module | None:
    dimension = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    shape = shape_of(node)
    return (
        Concatenate()
        if shape and isinstance(dimension, int) and dimension % len(shape) == 1
        else None
    )


def _reshaped(node: fx.Node) -> nn.Module | None:
    """Flattening, in whatever words; :class:`_Translation` leaves out what changes nothing."""
    before, after = shape_of(_sources(node)[0]), shape_of(node)
    assert before is not None
    assert after is not None
    return (
        nn.Flatten() if after in (before, torch.Size([before[0], math.prod(before[1:])])) else None
    )


def _mean(node: fx.Node) -> nn.Module | None:
    settings = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
    axes, shape = settings.get("dim"), shape_of(_sources(node)[0])
    if (
        not shape
        or len(shape) != 4
        or not isinstance(axes, list | tuple)
        or sorted(a % 4 for a in axes) != [2, 3]
    ):
        return None
    return nn.AdaptiveAvgPool2d(1) if settings.get("keepdim") else GlobalMean()


def _padding(node: fx.Node) -> nn.Module | None:
    settings = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    amounts = settings["pad"]
    if not isinstance(amounts, list | tuple) or len(amounts) != 4:
        return None
    numbers = [amount for amount in amounts if isinstance(amount, int)]
    zeros = settings.get("mode", "constant") == "constant" and not settings.get("value")
    return nn.ZeroPad2d(tuple(numbers)) if zeros and len(numbers) == 4 else None  # type: ignore[arg-type]


def _pooling(kind: Callable[..., nn.Module], *names: str) -> Callable[[fx.Node], nn.Module | None]:
    def made(node: fx.Node) -> nn.Module | None:
        settings = dict(zip(("input", *names), node.args, strict=False)) | dict(node.kwargs)
        pooled: Any = settings.pop("input")
        if settings.pop("return_indices", False):
            return None
        if not nodes_in(settings):
            return kind(**settings)
        sizes = from_shape(pooled, settings) if kind in MEANS else None
        return None if sizes is None else SizedMean(kind, sizes)

    return made


def _switched_off(position: int) -> Callable[[fx.Node], nn.Module | None]:
    """Dropout in its various forms, which does nothing outside training."""

    def made(node: fx.Node) -> nn.Module | None:
        training = node.kwargs.get(
            "training", node.args[position] if len(node.args) > position else True
        )
        return None if training else nn.Identity()

    return made


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)
FUNCTIONS: dict[str, Callable[[fx.Node], nn.Module | None]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.Sequential(nn.ReLU(), Ceiling(6.0)),
    "pad": _padding,
    **dict.fromkeys(("add", "iadd"), _sum),
    **dict.fromkeys(("sub", "isub"), lambda node: _multiple(node, lambda number: (1.0, -number))),
    **dict.fromkeys(("mul", "imul"), _product),
    **dict.fromkeys(
        ("truediv", "itruediv", "div"),
        lambda node: _multiple(node, lambda number: (1 / number, 0.0)),
    ),
    **dict.fromkeys(("cat", "concat"), _concatenation),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze"), _reshaped),
    "mean": _mean,
    **dict.fromkeys(("contiguous", "clone"), lambda _: nn.Identity()),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d"), _switched_off(2)),
    "stochastic_depth": _switched_off(3),
    "max_pool2d": _pooling(nn.MaxPool2d, *_MAX),
    "avg_pool2d": _pooling(nn.AvgPool2d, *_AVERAGE),
    "adaptive_max_pool2d": _pooling(nn.AdaptiveMaxPool2d, "output_size", "return_indices"),
    "adaptive_avg_pool2d": _pooling(nn.AdaptiveAvgPool2d, "output_size"),
}

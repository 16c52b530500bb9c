"""The engine of the propagation methods: one pass forwards that keeps every value, one pass
backwards by a rule a kind of step.

It runs on the canonical copy of a classifier (:mod:`lit_iba.baselines.canonical`). A method is a
rule: a function from what arrives at a step's output to what its inputs receive. Where a value is
used twice, what it receives adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.baselines.steps import Add, Affine, Concatenate, GlobalMean, SizedMean
from lit_iba.objectives import Objective

MAX_POOLINGS = (nn.MaxPool2d, nn.AdaptiveMaxPool2d)
MEANS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, GlobalMean, SizedMean)
WEIGHTED = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Step:
    """One step of a network in a pass: its name, its module, its inputs and its output."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor


Rule = Callable[
    [Step, Tensor], Sequence[Tensor]
]  # what arrives at the output -> what each input receives


class ForwardPass:
    """Every value of a canonical network for a batch of images.

    Args:
        network: From :func:`lit_iba.baselines.canonical.canonical`.
        images: (B, 3, H, W).
    """

    def __init__(self, network: fx.GraphModule, images: Tensor) -> None:
        self.steps: dict[str, Step] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            for node in network.graph.nodes:
                if node.op == "placeholder":
                    values[node.name], self._input = images, node.name
                elif node.op == "call_module":
                    sources = tuple(source.name for source in node.args)
                    inputs = tuple(values[source] for source in sources)
                    module = network.get_submodule(node.target)
                    values[node.name] = module(*inputs)
                    self.steps[node.name] = Step(node.name, module, inputs, values[node.name])
                    self._sources[node.name] = sources
                else:
                    self._output = node.args[0].name
        self.logits = values[self._output]

    @torch.no_grad()
    def back(self, start: Tensor, rule: Rule) -> Tensor:
        """Propagate from the logits to the images.

        Args:
            start: What is given to the outputs, of their shape.
            rule: Called once a step, from the last to the first.

        Returns:
            What the images receive, of their shape.
        """
        arriving = {self._output: start}
        for name, step in reversed(self.steps.items()):
            if name in arriving:
                received = rule(step, arriving.pop(name))
                for source, part in zip(self._sources[name], received, strict=True):
                    arriving[source] = arriving[source] + part if source in arriving else part
        return arriving[self._input]


@torch.enable_grad()
def score_gradient(objective: Objective, outputs: Tensor, targets: Tensor) -> Tensor:
    """d score / d outputs, of the outputs' shape: one at the target's logit, for classes."""
    at = outputs.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.score(at, targets).sum(), at)
    return gradient


def score_start(objective: Objective, outputs: Tensor, targets: Tensor) -> Tensor:
    """What each output gives to a linear score, of the outputs' shape: for classes the target's
    logit in its place and zero elsewhere.
    """
    gradient = score_gradient(objective, outputs, targets)
    return torch.where(gradient == 0, torch.zeros_like(outputs), gradient * outputs)


def quotient(numerator: Tensor, denominator: Tensor, epsilon: float = 0.0) -> Tensor:
    """numerator / (denominator + epsilon * sign(denominator)), zero where the denominator is
    zero.
    """
    stabilised = denominator + epsilon * denominator.sign() if epsilon else denominator
    return (numerator / stabilised).masked_fill_(denominator == 0, 0)


def weighted_sum(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution or linear layer gives with another weight and without its bias."""
    if isinstance(module, nn.Conv2d):
        return F.conv2d(
            x, weight, None, module.stride, module.padding, module.dilation, module.groups
        )
    return F.linear(x, weight)


def convolution_gradients(
    module: nn.Conv2d, x: Tensor, weight: Tensor, arriving: Tensor, of: str
) -> Tensor:
    """J^T ``arriving`` of a convolution with respect to its ``"input"`` or its ``"weight"``,
    without running it first.
    """
    assert not isinstance(
        module.padding, str
    )  # for the type checker: canonical() writes them as numbers
    return torch.ops.aten.convolution_backward(
        arriving,
        x,
        weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        False,
        [0, 0],
        module.groups,
        [of == "input", of == "weight", False],
    )[of == "weight"]


def weighted_transpose(module: nn.Module, x: Tensor, arriving: Tensor, weight: Tensor) -> Tensor:
    """W^T ``arriving``, of the shape of ``x``, for a convolution or linear layer with any weight of
    its shape.
    """
    if isinstance(module, nn.Conv2d):
        return convolution_gradients(module, x, weight, arriving, "input")
    return arriving @ weight


def transpose(module: nn.Module, inputs: Sequence[Tensor], arriving: Tensor) -> tuple[Tensor, ...]:
    """J^T ``arriving`` for each input of a linear (or affine) step; ``inputs`` give the shapes.

    This is the chain rule, by which every method here passes the steps that only move or average
    values.
    """
    if isinstance(module, Add):
        return arriving, arriving
    if isinstance(module, Concatenate):
        return arriving.split([x.shape[1] for x in inputs], dim=1)
    (x,) = inputs
    if isinstance(module, Affine):
        return (arriving * module.scale.view(-1, *[1] * (x.ndim - 2)),)
    if isinstance(module, nn.Flatten):
        return (arriving.reshape(x.shape),)
    if isinstance(module, nn.Conv2d | nn.Linear):
        return (weighted_transpose(module, x, arriving, module.weight),)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, arriving)


def winners(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of a max pooling (B, C, h, w), and where in the input's H * W positions they are, of
    the same shape.
    """
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return F.adaptive_max_pool2d(x, module.output_size, return_indices=True)  # type: ignore[call-overload]
    assert isinstance(module, nn.MaxPool2d)  # the only other kind
    return F.max_pool2d(
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        return_indices=True,
    )


def to_positions(values: Tensor, positions: Tensor, size: torch.Size) -> Tensor:
    """Put values (B, C, h, w) at positions in (B, C, H, W); where windows overlap, they add up."""
    flat = values.new_zeros(*values.shape[:2], size[-2] * size[-1])
    return flat.scatter_add_(2, positions.flatten(2), values.flatten(2)).unflatten(2, size[-2:])

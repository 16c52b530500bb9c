"""What each operation of a traced network adds to the class score: its bias, and whether the
decomposition is exact.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 12, 13
and S9; Srinivas & Fleuret (NeurIPS 2019) call the constants of batch norms and clipped activations
implicit biases. A network decomposes exactly when every operation is y = J x + b with a J that does
not change along the ray through x: convolutions, ReLUs, poolings, sums.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from lit_iba.activity import detached
from lit_iba.activity.detached import Gates

Copy = Callable[
    [Any], Any
]  # a node's counterpart in the graph under construction; anything else as it is

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CLIPPED = (nn.Hardtanh, nn.ReLU6)
_HOMOGENEOUS = (
    *CONVOLUTIONS,
    *CLIPPED,
    nn.Linear,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.ChannelShuffle,
    nn.Upsample,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
)
_CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # of 0 they are linear
# Functions and methods, by name without a trailing underscore.
_HOMOGENEOUS_NAMES = {
    "conv2d",
    "linear",
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "prelu",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "dropout",
    "dropout2d",
    "flatten",
    "reshape",
    "view",
    "permute",
    "transpose",
    "contiguous",
    "clone",
    "unsqueeze",
    "squeeze",
    "chunk",
    "unbind",
    "split",
    "getitem",
    "cat",
    "concat",
    "stack",
    "mean",
    "sum",
    "interpolate",
    "add",
    "iadd",
    "sub",
    "isub",
    "neg",
    "channel_shuffle",
    "expand",
    "stochastic_depth",
    "_patch_merging_pad",  # Swin's zeros, and its four neighbours side by side
}
_POINTWISE_NAMES = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "batch_norm"}
_WEIGHTED_NAMES = {
    "conv2d",
    "linear",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
}


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def name_of(node: fx.Node) -> str:
    """Name of the function or method that a node calls: ``add_`` and ``add`` are both ``"add"``."""
    if node.op not in ("call_function", "call_method"):
        return ""
    name = (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )
    return name if name.endswith("__") else name.rstrip("_")


def is_weighted(model: nn.Module, node: fx.Node) -> bool:
    """Whether an operation has weights that mix channels: a layer begins with one."""
    module = module_of(model, node)
    return (
        isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention))
        or name_of(node) in _WEIGHTED_NAMES
    )


def is_pointwise(model: nn.Module, node: fx.Node) -> bool:
    """Whether an operation belongs to the layer before it: a batch norm or an activation."""
    module = module_of(model, node)
    if module is not None:
        return (
            isinstance(module, BATCH_NORMS)
            or type(module).__module__ == "torch.nn.modules.activation"
        )
    return name_of(node) in _POINTWISE_NAMES


def is_gate(model: nn.Module, node: fx.Node) -> bool:
    """Whether an operation passes no gradient where gates are detached."""
    return detached.is_gate(module_of(model, node), name_of(node))


def inexact_name(
    model: nn.Module, node: fx.Node, of_images: set[fx.Node], gates: Gates
) -> str | None:
    """What to call an operation for which gradient x activity plus bias is not the output; None
    where it is.
    """
    module, name = module_of(model, node), name_of(node)
    if gates == "detached" and detached.is_linear(module, name):
        return None
    if module is not None:
        exact = isinstance(module, _HOMOGENEOUS) or (
            (isinstance(module, BATCH_NORMS) and module.running_mean is not None)
            or (isinstance(module, _CONSTANT_PADS) and module.value == 0)
        )
        return None if exact else type(module).__name__
    if name in ("mul", "imul", "truediv", "itruediv", "div", *detached.PRODUCTS):
        on_images = [i for i, given in enumerate(node.args) if given in of_images]
        either = name in ("mul", "imul", *detached.PRODUCTS)
        return None if on_images == [0] or (on_images == [1] and either) else name
    if name == "batch_norm":
        return (
            name
            if _argument(node, 5, "training", False) or _argument(node, 1, "running_mean") is None
            else None
        )
    if name == "pad":
        constant = _argument(node, 2, "mode", "constant") == "constant"
        return name if constant and _argument(node, 3, "value") not in (None, 0) else None
    if name in ("add", "sub") and "alpha" in node.kwargs:
        return name
    return None if not name or name in _HOMOGENEOUS_NAMES else name


def add_bias(
    graph: fx.Graph,
    model: nn.Module,
    node: fx.Node,
    of_images: set[fx.Node],
    copied: Copy,
    output: fx.Node,
    gates: Gates,
) -> fx.Node | None:
    """Put into ``graph`` what computes a node's effective bias, broadcastable to its output; None
    where it has none.

    Args:
        graph: The graph under construction.
        model: The network.
        node: A node of the network's own graph.
        of_images: The nodes that the images' gradient flows through.
        copied: From a node of the network's graph to its counterpart in ``graph``.
        output: The counterpart of ``node``.
        gates: Whether gates, scales and weights of attention are constants.
    """
    module, name = module_of(model, node), name_of(node)

    if gates == "detached" and (source := detached.bias_source(model, node, module, name)):
        compute, (_, *parts) = source
        taken = [graph.get_attr(p) if isinstance(p, str) else copied(p) for p in parts]
        return graph.call_function(compute, (output, *taken))

    def attribute(which: str) -> fx.Node | None:
        return (
            graph.get_attr(f"{node.target}.{which}") if getattr(module, which) is not None else None
        )

    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        bias = attribute("bias")
        shape = over_channels if isinstance(module, CONVOLUTIONS) else None
        return (
            graph.call_function(shape, (bias, output))
            if bias is not None and shape is not None
            else bias
        )
    if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
        tensors = [attribute(which) for which in ("weight", "bias", "running_mean", "running_var")]
        return graph.call_function(
            over_channels, (graph.call_function(batch_norm_bias, (*tensors, module.eps)), output)
        )
    if isinstance(module, CLIPPED):
        return graph.call_function(clipping_bias, (output, module.min_val, module.max_val))
    if name in ("conv2d", "linear"):
        bias = copied(_argument(node, 2, "bias"))
        return (
            graph.call_function(over_channels, (bias, output))
            if bias is not None and name == "conv2d"
            else bias
        )
    if name == "batch_norm" and inexact_name(model, node, of_images, gates) is None:
        places = {"weight": 3, "bias": 4, "running_mean": 1, "running_var": 2}
        tensors = [copied(_argument(node, place, which)) for which, place in places.items()]
        constant = graph.call_function(batch_norm_bias, (*tensors, _argument(node, 7, "eps", 1e-5)))
        return graph.call_function(over_channels, (constant, output))
    if name == "relu6":
        return graph.call_function(clipping_bias, (output, 0.0, 6.0))
    if name == "hardtanh":
        limits = _argument(node, 1, "min_val", -1.0), _argument(node, 2, "max_val", 1.0)
        return graph.call_function(clipping_bias, (output, *limits))
    if name in ("cat", "concat"):
        given: Any = node.args[0]
        flows = [part in of_images for part in given]
        dim = _argument(node, 1, "dim", 0)
        parts = [copied(part) for part in given]
        whole = (output, parts, flows, dim)
        return None if all(flows) else graph.call_function(detached.constant_parts, whole)
    if name in ("add", "iadd", "sub", "isub") and "alpha" not in node.kwargs:
        return _added_constant(graph, node, of_images, copied, output)
    return None


def _added_constant(
    graph: fx.Graph, node: fx.Node, of_images: set[fx.Node], copied: Copy, output: fx.Node
) -> fx.Node | None:
    """What does not depend on the images in ``x + constant``, ``x - constant`` or ``constant -
    x``.
    """
    constants = [i for i, given in enumerate(node.args) if given not in of_images]
    if len(node.args) != 2 or len(constants) != 1:
        return None
    constant = copied(node.args[constants[0]])
    if not isinstance(constant, fx.Node):
        constant = graph.call_function(torch.full_like, (output, constant))
    negative = name_of(node) in ("sub", "isub") and constants == [1]
    return graph.call_function(operator.neg, (constant,)) if negative else constant


def batch_norm_bias(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Effective bias of a batch norm in eval mode, beta - gamma mean / sqrt(var + eps), (C,)
    (equation S9).
    """
    constant = -mean * torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    return constant if bias is None else bias + constant


def over_channels(values: Tensor, output: Tensor) -> Tensor:
    """(C,) values to a shape that broadcasts over an output (B, C, ...)."""
    return values.reshape(-1, *[1] * (output.ndim - 2))


def clipping_bias(output: Tensor, low: float, high: float) -> Tensor:
    """What an activation clipped to [low, high] adds where it is saturated and its gradient zero:
    the bound itself.
    """
    return torch.where(
        (output <= low) | (output >= high), output, torch.zeros_like(output)
    ).detach()


def _argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

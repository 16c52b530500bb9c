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
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.activity import detached
from lit_iba.activity.calls import arguments, flowing_places, module_of, name_of
from lit_iba.activity.detached import Gates
from lit_iba.classifier.plain import kind_of

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
    "mean",
    "sum",
    "interpolate",
    "neg",
    "channel_shuffle",
    "expand",
    "stochastic_depth",
    "_patch_merging_pad",  # Swin's zeros, and its four neighbours side by side
}
_SUMS = {"add", "iadd", "sub", "isub"}
_PRODUCTS = {"mul", "imul", *detached.PRODUCTS}  # of something and a constant
_QUOTIENTS = {"truediv", "itruediv", "div"}
_JOINED = {"cat", "concat", "stack"}
_POINTWISE_NAMES = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "batch_norm"}
_WEIGHTED_NAMES = {
    "conv2d",
    "linear",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
}


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
    if module is not None and kind_of(module) is None:
        return f"{type(module).__name__} with hooks"
    if module is None and not name:
        return None
    if _is_exact(node, module, of_images, gates):
        return None
    return name if module is None else type(module).__name__


def _is_exact(
    node: fx.Node, module: nn.Module | None, of_images: set[fx.Node], gates: Gates
) -> bool:
    name, given, places = name_of(node), arguments(node), flowing_places(node, of_images)
    if gates == "detached" and detached.is_linear(module, name):
        if detached.is_attention(module, name):
            return "attn_mask" not in places
        return places == {"input"}
    if module is not None:
        exact = isinstance(module, _HOMOGENEOUS) or (
            (isinstance(module, BATCH_NORMS) and module.running_mean is not None)
            or (isinstance(module, _CONSTANT_PADS) and module.value == 0)
        )
        return exact and places == {"input"}
    if name in _SUMS:
        return given.keys() == {"input", "other"}
    if name in _PRODUCTS:
        return given.keys() == {"input", "other"} and len(places) == 1
    if name in _QUOTIENTS:
        return places == {"input"} and given.get("rounding_mode") is None
    if name in _JOINED:
        return given.keys() <= {"tensors", "dim"} and places == {"tensors"}
    if name == "batch_norm":
        # torch.batch_norm takes its arguments in another order.
        usual = node.target is F.batch_norm and given.get("running_mean") is not None
        return usual and not given.get("training", False) and places == {"input"}
    if name == "pad":
        zeros = given.get("value") in (None, 0)
        return (zeros or given.get("mode", "constant") != "constant") and places == {"input"}
    return name in _HOMOGENEOUS_NAMES and places == {"input"}


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
    given = arguments(node)
    if name in ("conv2d", "linear"):
        bias = copied(given.get("bias"))
        return (
            graph.call_function(over_channels, (bias, output))
            if bias is not None and name == "conv2d"
            else bias
        )
    if name == "batch_norm" and inexact_name(model, node, of_images, gates) is None:
        tensors = [copied(given.get(p)) for p in ("weight", "bias", "running_mean", "running_var")]
        constant = graph.call_function(batch_norm_bias, (*tensors, given.get("eps", 1e-5)))
        return graph.call_function(over_channels, (constant, output))
    if name == "relu6":
        return graph.call_function(clipping_bias, (output, 0.0, 6.0))
    if name == "hardtanh":
        limits = given.get("min_val", -1.0), given.get("max_val", 1.0)
        return graph.call_function(clipping_bias, (output, *limits))
    if name in _JOINED and not isinstance(given["tensors"], fx.Node):
        flows = [part in of_images for part in given["tensors"]]
        parts = [copied(part) for part in given["tensors"]]
        whole = (parts, flows, given.get("dim", 0), name == "stack")
        return None if all(flows) else graph.call_function(detached.constant_parts, whole)
    if name in _SUMS and given.keys() == {"input", "other"}:
        return _added_constant(graph, node, of_images, copied, output)
    return None


def _added_constant(
    graph: fx.Graph, node: fx.Node, of_images: set[fx.Node], copied: Copy, output: fx.Node
) -> fx.Node | None:
    """What does not depend on the images in ``x + constant``, ``x - constant`` or ``constant -
    x``.
    """
    constants = {which: g for which, g in arguments(node).items() if g not in of_images}
    if len(constants) != 1:
        return None
    ((which, given),) = constants.items()
    constant = copied(given)
    if not isinstance(constant, fx.Node):
        constant = graph.call_function(torch.full_like, (output, constant))
    negative = name_of(node) in ("sub", "isub") and which == "other"
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

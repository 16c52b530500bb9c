"""Convolutions of a GPU that add their bias, a skip connection and a ReLU on the way out, for
frozen weights.

What cuDNN can do in one kernel, torch does in three that each read and write the whole feature map:
on an H100 the additions and ReLUs of a ResNet-50 took as long as its convolutions. Weights are kept
in the precision of the arithmetic, so that autocast does not cast them at every call. Everything
that is not on a CUDA device, or needs gradients of weights, takes torch's usual way.
"""

from __future__ import annotations

import copy
import operator
from typing import Any, TypeGuard

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from lit_iba.classifier.folding import fold_batch_norms, graph_module
from lit_iba.classifier.kept_forms import cast
from lit_iba.classifier.packed_attention import PackedAttention
from lit_iba.classifier.packing import PackedConv2d, PackedLinear
from lit_iba.classifier.plain import has_hooks, is_plain, is_plain_tensor
from lit_iba.classifier.precision import arithmetic_dtype


def _operations(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return conv_flop_count(list(x), list(weight), list(out_shape))


for _fused in (torch.ops.aten.cudnn_convolution_relu, torch.ops.aten.cudnn_convolution_add_relu):
    register_flop_formula(_fused)(_operations)


class FusedConv2d(nn.Module):
    """relu(convolution(x) + skip), or without the ReLU, or without the skip connection.

    Args:
        convolution: With weights that need no gradient. Shared, not copied; changed weights are
            noticed.
        relu: Whether a ReLU follows.
    """

    def __init__(self, convolution: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.convolution, self.relu = convolution, relu

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether a module is a convolution of the kind that can be fused."""
        return (
            is_plain(module, nn.Conv2d)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and not module.weight.requires_grad
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and a skip connection of the output's shape, to (B, C', H', W')."""
        if not self._usable(x) or not (skip is None or self._adds(x, skip)):
            return self.plain(x, skip)
        dtype = arithmetic_dtype(x)
        x, skip = x.to(dtype), None if skip is None else skip.to(dtype)
        if torch.is_grad_enabled() and (
            x.requires_grad or (skip is not None and skip.requires_grad)
        ):
            return _Fused.apply(x, skip, self)
        return self.run(x, skip)

    def plain(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """The same by torch's own operations."""
        y = self.convolution(x)
        y = y if skip is None else y + skip
        return F.relu(y) if self.relu else y

    def _usable(self, x: Tensor) -> bool:
        own = self.convolution
        return (
            is_plain_tensor(x)
            and x.device.type == own.weight.device.type == "cuda"
            and not own.weight.requires_grad
            and torch.backends.cudnn.enabled
            and not has_hooks(own)
        )

    def _adds(self, x: Tensor, skip: Tensor) -> bool:
        """Whether a skip connection has the output's shape: an addition also takes one that is
        repeated, or one that the output is repeated for.
        """
        own = self.convolution
        assert not isinstance(own.padding, str)  # see suits
        kernels = own.weight.shape[2:]
        sides = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                x.shape[2:], own.padding, own.dilation, kernels, own.stride, strict=True
            )
        ]
        return is_plain_tensor(skip) and skip.shape == (len(x), len(own.weight), *sides)

    def run(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """The convolution, with its weights in the precision of ``x``."""
        own, (weight, bias) = self.convolution, cast(self.convolution, x.dtype)
        assert not isinstance(own.padding, str)  # see suits
        where = (own.stride, own.padding, own.dilation)
        if self.relu and bias is not None and x.device.type == "cuda":
            if skip is None:
                return torch.cudnn_convolution_relu(x, weight, bias, *where, own.groups)
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            if skip.is_contiguous(memory_format=layout):
                return torch.cudnn_convolution_add_relu(
                    x, weight, skip, 1.0, bias, *where, own.groups
                )
        y = F.conv2d(x, weight, bias, *where, own.groups)
        y = y if skip is None else y.add_(skip)
        return y.relu_() if self.relu else y


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor | None, module: FusedConv2d) -> Tensor:
        ctx.module, ctx.with_skip = module, skip is not None
        y = module.run(x, skip)
        ctx.save_for_backward(x, y, module.convolution.weight)  # which must not change meanwhile
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,), (x, y, _), own = gradients, ctx.saved_tensors, ctx.module.convolution
        if ctx.module.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x = None
        if ctx.needs_input_grad[0]:
            where = (own.stride, own.padding, own.dilation, False, (0, 0), own.groups)
            weight, wanted = cast(own, x.dtype)[0], (True, False, False)
            of_x = torch.ops.aten.convolution_backward(gradient, x, weight, None, *where, wanted)[0]
        return of_x, gradient if ctx.with_skip and ctx.needs_input_grad[1] else None, None


def fuse_convolutions(network: fx.GraphModule) -> fx.GraphModule:
    """A graph module whose frozen convolutions take in the bias, skip connection and ReLU behind
    them.

    All weights are shared with ``network``, and on the CPU it computes the very same.
    """
    fused = graph_module(network, copy.deepcopy(network.graph))
    for node in list(fused.graph.nodes):
        if node.op != "call_module" or not FusedConv2d.suits(
            module := fused.get_submodule(str(node.target))
        ):
            continue
        last, skip = node, None
        addition = _only_user(node)
        if addition is not None and _is_addition(addition):
            (other,) = [argument for argument in addition.args if argument is not node] or [None]
            relu = _only_user(addition)
            # What is computed after the convolution cannot go into it.
            if (
                isinstance(other, fx.Node)
                and relu is not None
                and _is_relu(fused, relu)
                and _before(other, node)
            ):
                last, skip = relu, other
        elif addition is not None and _is_relu(fused, addition):
            last = addition
        name = f"fused_{node.name}"
        fused.add_submodule(name, FusedConv2d(module, relu=last is not node))
        with fused.graph.inserting_after(node):
            images = node.all_input_nodes[0]
            made = fused.graph.call_module(name, (images,) if skip is None else (images, skip))
        last.replace_all_uses_with(made)
        while last is not node:
            last, done = next(n for n in last.all_input_nodes if n is not skip), last
            fused.graph.erase_node(done)
        fused.graph.erase_node(node)
    fused.recompile()
    return fused


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_addition(node: fx.Node) -> bool:
    if node.kwargs or len(node.args) != 2:
        return False
    functions = (operator.add, operator.iadd, torch.add)
    methods = ("add", "add_")
    return (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in methods
    )


def _is_relu(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return is_plain(network.get_submodule(str(node.target)), nn.ReLU)
    return (node.op == "call_function" and node.target in (F.relu, torch.relu, torch.relu_)) or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )


def _before(node: fx.Node, other: fx.Node) -> bool:
    """Whether ``node`` is computed before ``other``."""
    return next(n for n in node.graph.nodes if n is node or n is other) is node


def pack_weights(network: fx.GraphModule) -> fx.GraphModule:
    """A graph module whose frozen convolutions, linear layers and self-attention are
    :class:`PackedConv2d`, :class:`PackedLinear` and :class:`PackedAttention`; all weights are
    shared with ``network``.
    """
    packed = graph_module(network, copy.deepcopy(network.graph))
    for node in packed.graph.nodes:
        if node.op != "call_module":
            continue
        module = packed.get_submodule(node.target)
        for kind in (PackedConv2d, PackedLinear, PackedAttention):
            if kind.suits(module):
                node.target = f"packed_{node.name}"
                packed.add_submodule(node.target, kind(module))  # type: ignore[arg-type]
    packed.recompile()
    return packed


def made_fast(network: fx.GraphModule) -> fx.GraphModule:
    """The network as the device that its weights are on runs it best: batch norms folded,
    convolutions fused (GPU), and weights kept as they are used.
    """
    folded = fold_batch_norms(network)
    on_cuda = any(parameter.device.type == "cuda" for parameter in network.parameters())
    return pack_weights(fuse_convolutions(folded) if on_cuda else folded)

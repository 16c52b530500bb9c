"""Convolutions whose weights are stored as the processor's convolution wants them, because frozen
weights never change.

oneDNN brings a convolution's weights into its own order at every call, forward and backward; for
the deep layers of a ResNet, where weights outweigh the features, that is a good part of the time.
Here it is done once. Only on the CPU, in float32, for images in channels_last order and gradients
of the input alone; everything else takes torch's usual way.
"""

from __future__ import annotations

import copy
from typing import Any, TypeGuard

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.plain import is_plain

_OPERATIONS = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
)


def can_pack() -> bool:
    """Whether this build of torch has what is needed; ``torch.backends.mkldnn.enabled = False``
    turns it off.
    """
    return bool(torch.backends.mkldnn.enabled) and all(
        hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS
    )


def _count_operations() -> None:
    """Tell torch's flop counter what the packed operations do."""
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS):
        return

    def forward(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(list(x), list(weight), list(out_shape))

    def backward(gradient: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(list(gradient), list(weight), list(out_shape), transposed=True)

    register_flop_formula(torch.ops.mkldnn._convolution_pointwise)(forward)
    register_flop_formula(torch.ops.mkldnn._convolution_transpose_pointwise)(backward)


_count_operations()


class PackedConv2d(nn.Module):
    """A frozen convolution, equal to it to float rounding, and faster where its weights are large.

    Args:
        convolution: With weights that need no gradient. Shared, not copied; changed weights are
            noticed and packed again.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self._packed: dict[str, tuple[Any, Tensor]] = {}

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether a module is a convolution of the kind that can be packed."""
        return (
            is_plain(module, nn.Conv2d)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and not module.weight.requires_grad
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        if not self._usable(x):
            return self.convolution(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Convolution.apply(x, self)
        return self.run(x)

    def _usable(self, x: Tensor) -> bool:
        own = self.convolution
        return (
            type(x) is Tensor
            and x.device.type == "cpu"
            and x.dtype == own.weight.dtype == torch.float32
            and own.weight.device.type == "cpu"
            and not own.weight.requires_grad
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.numel() > 0
            and can_pack()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not (
                own._forward_hooks
                or own._forward_pre_hooks
                or own._backward_hooks
                or own._backward_pre_hooks
            )
        )

    def run(self, x: Tensor) -> Tensor:
        """The convolution."""
        own = self.convolution
        where = (own.padding, own.stride, own.dilation, own.groups)
        weight = self._weight(
            "forward",
            x.shape,
            lambda: _op("_reorder_convolution_weight")(own.weight, *where, x.shape),
        )
        return _op("_convolution_pointwise")(x, weight, own.bias, *where, "none", [], "")

    def run_backward(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the input, of that shape, from the output's: the transposed
        convolution.
        """
        own = self.convolution
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        rest = [
            size - ((out - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for size, out, stride, padding, dilation, kernel in zip(
                shape[2:],
                gradient.shape[2:],
                own.stride,
                own.padding,
                own.dilation,
                own.kernel_size,
                strict=True,
            )
        ]
        where = (own.padding, rest, own.stride, own.dilation, own.groups)
        weight = self._weight(
            "backward",
            shape,
            lambda: _op("_reorder_convolution_transpose_weight")(
                own.weight, *where, gradient.shape
            ),
        )
        return _op("_convolution_transpose_pointwise")(
            gradient, weight, None, *where, "none", [], ""
        )

    def _weight(self, direction: str, shape: torch.Size, pack: Any) -> Tensor:
        weight = self.convolution.weight
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version, shape[1:])
        if direction not in self._packed or self._packed[direction][0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._packed[direction] = state, pack()
        return self._packed[direction][1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}}  # what is packed can be neither copied nor pickled


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: PackedConv2d) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        return module.run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), own = gradients, ctx.module.convolution
        if torch.is_grad_enabled():  # create_graph: a form that can be differentiated again
            where = (own.stride, own.padding, own.dilation, own.groups)
            return conv2d_input(ctx.shape, own.weight, gradient, *where), None
        return ctx.module.run_backward(gradient, ctx.shape), None


def _op(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)


def pack_convolutions(network: fx.GraphModule) -> fx.GraphModule:
    """A graph module whose frozen convolutions are :class:`PackedConv2d`; all weights are shared
    with ``network``.
    """
    packed = graph_module(network, copy.deepcopy(network.graph))
    for node in packed.graph.nodes:
        if node.op == "call_module" and PackedConv2d.suits(
            module := packed.get_submodule(node.target)
        ):
            node.target = f"packed_{node.name}"
            packed.add_submodule(node.target, PackedConv2d(module))
    packed.recompile()
    return packed

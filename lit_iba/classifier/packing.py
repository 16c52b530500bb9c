"""Convolutions and linear layers whose weights are stored as the processor wants them, because
frozen weights never change.

Weights are brought into another order at every call, forward and backward, and autocast casts them
before; where weights outweigh the features, as in the deep layers of a ResNet and the linear ones
of a VGG, that is most of the time. Here it is done once. Packed they are on the CPU alone, in
float32 and bfloat16, convolutions for images in channels_last order, and for gradients of the input
alone; everything else takes torch's usual way.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from lit_iba.classifier.kept_forms import cast, kept_form
from lit_iba.classifier.plain import has_hooks, is_plain, is_plain_tensor
from lit_iba.classifier.precision import arithmetic_dtype, computes_bfloat16

_OPERATIONS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
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

    def product(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(x) * int(out_shape[-1])

    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(product)
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

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        if not self._usable(input):
            return self.convolution(input)
        x = input.to(arithmetic_dtype(input))
        if torch.is_grad_enabled() and x.requires_grad:
            return _Convolution.apply(x, self)
        return self.run(x)

    def _usable(self, x: Tensor) -> bool:
        return (
            _can_pack_for(self.convolution, x)
            and x.ndim == 4
            and x.shape[1] == self.convolution.weight.shape[1]
            and x.is_contiguous(memory_format=torch.channels_last)
            # One channel lies in both orders, and torch gives it back in the usual one.
            and x.stride(1) == 1
        )

    def run(self, x: Tensor) -> Tensor:
        """The convolution, in the precision of ``x``."""
        own = self.convolution
        where = (own.padding, own.stride, own.dilation, own.groups)
        weight = kept_form(
            own,
            ("forward", x.dtype),
            lambda: _op("_reorder_convolution_weight")(own.weight.to(x.dtype), *where, x.shape),
            shape=x.shape[1:],
        )
        bias = None if own.bias is None else own.bias.to(x.dtype)
        return _op("_convolution_pointwise")(x, weight, bias, *where, "none", [], "")

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
                own.weight.shape[2:],
                strict=True,
            )
        ]
        where = (own.padding, rest, own.stride, own.dilation, own.groups)
        weight = kept_form(
            own,
            ("backward", gradient.dtype),
            lambda: _op("_reorder_convolution_transpose_weight")(
                own.weight.to(gradient.dtype), *where, gradient.shape
            ),
            shape=shape[1:],
        )
        return _op("_convolution_transpose_pointwise")(
            gradient, weight, None, *where, "none", [], ""
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: PackedConv2d) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        ctx.save_for_backward(module.convolution.weight)  # which must not change meanwhile
        return module.run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (weight,), own = gradients, ctx.saved_tensors, ctx.module.convolution
        if torch.is_grad_enabled():  # create_graph: a form that can be differentiated again
            where = (own.stride, own.padding, own.dilation, own.groups)
            return conv2d_input(ctx.shape, weight.to(gradient.dtype), gradient, *where), None
        return ctx.module.run_backward(gradient, ctx.shape), None


class PackedLinear(nn.Module):
    """A frozen linear layer, equal to it to float rounding, and faster.

    Args:
        linear: With weights that need no gradient. Shared, not copied; changed weights are noticed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.Linear]:
        """Whether a module is a linear layer of the kind that can be packed."""
        return is_plain(module, nn.Linear) and not module.weight.requires_grad

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) to (..., C')."""
        own, x = self.linear, input
        if not _is_frozen_layer_of(own, x) or x.shape[-1:] != own.weight.shape[1:]:
            return own(x)
        dtype = arithmetic_dtype(x)
        if not _can_pack_for(own, x):
            return own(x) if dtype == own.weight.dtype else F.linear(x.to(dtype), *cast(own, dtype))
        x = x.to(dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Linear.apply(x, self)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """The product and the bias, in the precision of ``x``."""
        own = self.linear
        weight = self._packed("forward", x.dtype, own.weight)
        bias = None if own.bias is None else own.bias.to(x.dtype)
        rows = _op("_linear_pointwise")(x.reshape(-1, x.shape[-1]), weight, bias, "none", [], "")
        # As torch does it: not a view, which what follows could not overwrite.
        return torch.ops.aten._unsafe_view(rows, (*x.shape[:-1], len(own.weight)))

    def run_backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the input from the output's."""
        weight = self._packed("backward", gradient.dtype, self.linear.weight.t())
        return _op("_linear_pointwise")(gradient, weight, None, "none", [], "")

    def _packed(self, direction: str, dtype: torch.dtype, weight: Tensor) -> Tensor:
        return kept_form(
            self.linear,
            (direction, dtype),
            lambda: _op("_reorder_linear_weight")(weight.to(dtype).contiguous(), None),
        )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: PackedLinear) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(module.linear.weight)  # which must not change meanwhile
        return module.run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a form that can be differentiated again
            return gradient @ weight.to(gradient.dtype), None
        return ctx.module.run_backward(gradient), None


def _is_frozen_layer_of(own: nn.Conv2d | nn.Linear, x: Tensor) -> bool:
    """Whether a layer may compute with ``x`` in another form of its weights."""
    return (
        is_plain_tensor(x)
        and x.device == own.weight.device
        and (x.dtype == own.weight.dtype or torch.is_autocast_enabled(x.device.type))
        and not own.weight.requires_grad
        and not has_hooks(own)
    )


def _can_pack_for(own: nn.Conv2d | nn.Linear, x: Tensor) -> bool:
    dtype = arithmetic_dtype(x)
    return (
        _is_frozen_layer_of(own, x)
        and x.device.type == "cpu"
        and own.weight.dtype == torch.float32
        and can_pack()
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and computes_bfloat16(x.device)))
    )


def _op(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)

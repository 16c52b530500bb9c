"""Networks with smooth activations, normalisation by a layer's own statistics, gates and attention,
made linear along what they pass on.

GELU(x) is x times a gate, LayerNorm(x) is x times a scale, attention is a weighted sum. Where gate,
scale and weights are taken as constants, every operation is y = J x + b again, and activity and
bias attributions add up to the class score. Mehri et al., "LibraGrad" (CVPR 2025), call this
pruning of gradient flows; Achtibat et al., "AttnLRP" (ICML 2024), have the same rules for
normalisation and activations. The forward pass is not changed.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lit_iba.activity.calls import arguments

Gates = Literal["differentiated", "detached"]

# f(0) = 0, so that f(x) is x times the gate f(x) / x.
_GATED = {"gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "tanh", "softsign"}
_GATES = {"softmax", "sigmoid", "hardsigmoid"}  # nothing flows through them
_GATED_MODULES = (
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Tanh,
    nn.Softsign,
)
_GATE_MODULES = (nn.Softmax, nn.Softmax2d, nn.Sigmoid, nn.Hardsigmoid)
_WINDOWS = {"shifted_window_attention", "shifted_window_attention_v2"}
_LINEAR_WHEN_DETACHED = {
    *_GATED,
    *_GATES,
    *_WINDOWS,
    "layer_norm",
    "group_norm",
    "rms_norm",
    "scaled_dot_product_attention",
}
PRODUCTS = {"matmul", "bmm"}  # linear in one factor where the other is a gate


def is_gate(module: nn.Module | None, name: str) -> bool:
    """Whether an operation is a gate: what it gives only weighs something else."""
    return isinstance(module, _GATE_MODULES) or (module is None and name in _GATES)


def is_linear(module: nn.Module | None, name: str) -> bool:
    """Whether an operation is y = J x + b once its gate, scale or weights are constants."""
    if isinstance(module, nn.MultiheadAttention):
        return module.bias_k is None and not module.add_zero_attn
    if module is not None:
        norms = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
        return isinstance(module, (*_GATED_MODULES, *_GATE_MODULES, *norms))
    return name in _LINEAR_WHEN_DETACHED


def is_attention(module: nn.Module | None, name: str) -> bool:
    """Whether an operation weighs its values by what it is given beside them."""
    names = {*_WINDOWS, "scaled_dot_product_attention", "multi_head_attention_forward"}
    return isinstance(module, nn.MultiheadAttention) or (module is None and name in names)


def bias_source(
    model: nn.Module, node: fx.Node, module: nn.Module | None, name: str
) -> tuple[Callable[..., Tensor], list[Any]] | None:
    """What computes the effective bias of such an operation, and what it takes: nodes of the
    network's graph or names of parameters; None where it has none.
    """
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.bias is not None:
        shaped = _over_channels if isinstance(module, nn.GroupNorm) else _as_it_is
        return shaped, [node, f"{node.target}.bias"]
    if name in ("layer_norm", "group_norm"):
        given = arguments(node)
        shaped = _over_channels if name == "group_norm" else _as_it_is
        return None if given.get("bias") is None else (shaped, [node, given["bias"]])
    if name == "getitem" and isinstance(node.args[0], fx.Node) and node.args[1] == 0:
        attention = node.args[0]
        if attention.op == "call_module":
            called = model.get_submodule(str(attention.target))
            if isinstance(called, nn.MultiheadAttention) and called.in_proj_bias is not None:
                parts = ("in_proj_bias", "out_proj.weight", "out_proj.bias")
                return _attention_bias, [node, *(f"{attention.target}.{part}" for part in parts)]
    if name in _WINDOWS:
        target: Any = node.target
        given = inspect.signature(target).bind(*node.args, **node.kwargs).arguments
        qkv, weight, bias = (given.get(p) for p in ("qkv_bias", "proj_weight", "proj_bias"))
        nothing = qkv is None and bias is None
        return None if nothing else (_attention_bias, [node, qkv, weight, bias])
    return None


def _as_it_is(output: Tensor, bias: Tensor) -> Tensor:
    return bias


def _over_channels(output: Tensor, bias: Tensor) -> Tensor:
    return bias.reshape(-1, *[1] * (output.ndim - 2))


def _attention_bias(
    output: Tensor, packed: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """W_out b_v + b_out, (C,): the weights of each position add up to 1, so that it sees b_v
    whole.
    """
    constant = torch.zeros_like(weight[:, 0]) if bias is None else bias
    return constant if packed is None else constant + weight @ packed.chunk(3)[2]


def constant_parts(parts: list[Tensor], flows: list[bool], dim: int, stacked: bool) -> Tensor:
    """A concatenation or stack of which only the parts remain that do not depend on the images,
    such as class tokens.
    """
    kept = [torch.zeros_like(p) if flow else p for p, flow in zip(parts, flows, strict=True)]
    return torch.stack(kept, dim) if stacked else torch.cat(kept, dim)


def gates_of(gates: Gates) -> contextlib.AbstractContextManager[Any]:
    """What a forward pass runs in."""
    return DetachedGates() if gates == "detached" else contextlib.nullcontext()


class DetachedGates(TorchFunctionMode):
    """Inside, gates, scales and weights of attention pass no gradient; values are as outside.

    Example:
        >>> import torch
        >>> from lit_iba.activity.detached import DetachedGates
        >>> x = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> with DetachedGates():
        ...     y = torch.nn.functional.gelu(x)
        >>> (gradient,) = torch.autograd.grad(y.sum(), x)
        >>> torch.allclose(x * gradient, y)  # no bias is left
        True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = name.rstrip("_")
        if plain in _GATED or plain in _GATES:
            return _pointwise(func, plain, name, args, kwargs)
        replaced = _REPLACED.get(name)
        return func(*args, **kwargs) if replaced is None else replaced(func, *args, **kwargs)


def _pointwise(func: Any, plain: str, name: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
    x = args[0] if args else kwargs.pop("input")
    in_place = kwargs.pop("inplace", False) or name.endswith("_")
    with torch.no_grad():
        # A copy, because what is written over its argument would otherwise lose it.
        value: Tensor = func(x.detach().clone(), *args[1:], **kwargs)
    if plain in _GATED:
        # At 0 the gate is f'(0); what it is matters to no product with 0.
        near = torch.full_like(value, 1e-3)
        with torch.no_grad():
            up, down = (func(sign * near, *args[1:], **kwargs) for sign in (1, -1))
            at_zero = (up - down) / (2 * near)
            gate = torch.where(x == 0, at_zero, value / torch.where(x == 0, near, x))
        value = x * gate
    return x.copy_(value) if in_place else value


def _layer_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    centred = input - input.mean(dim=axes, keepdim=True)
    found = centred * _scale(centred, axes, eps) * (1 if weight is None else weight)
    return found if bias is None else found + bias


def _rms_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return input * _scale(input, axes, eps) * (1 if weight is None else weight)


def _group_norm(
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    grouped = input.unflatten(1, (num_groups, -1))
    axes = tuple(range(2, grouped.ndim))
    centred = grouped - grouped.mean(dim=axes, keepdim=True)
    found = (centred * _scale(centred, axes, eps)).reshape(input.shape)
    found = found if weight is None else found * _over_channels(input, weight)
    return found if bias is None else found + _over_channels(input, bias)


def _scale(centred: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return (centred.square().mean(dim=axes, keepdim=True) + eps).rsqrt().detach()


def _attention(func: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Weights of attention are functions of queries and keys alone."""
    return func(query.detach(), key.detach(), *args, **kwargs)


_REPLACED: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _attention,
}

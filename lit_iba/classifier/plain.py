"""Which modules do what their class says and no more, so that another form can take their place,
and which tensors it can take.

Hooks, a ``forward`` of the module's own and weights of a class of their own change what it
computes. Pruning, weight norm and spectral norm change its weights alone: it does what its class
says, with other tensors than its parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_MAKE_WEIGHTS = (BasePruningMethod, SpectralNorm, WeightNorm)  # what hangs on a module as a hook


def has_hooks(module: nn.Module) -> bool:
    """Whether anything hangs on a module that may change what it gives or passes back, but for what
    makes its weights.
    """
    for which in _HOOKS:
        for hook in getattr(module, which).values():
            if not isinstance(hook, _MAKE_WEIGHTS):
                return True
    return False


def hooks_of(modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """What hangs on modules, to be compared later."""
    return tuple(
        id(hook) for m in modules for which in _HOOKS for hook in getattr(m, which).values()
    )


def kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The class that says all that a module computes; None where hooks, or a ``forward`` of its
    own, may change that.
    """
    if has_hooks(module) or "forward" in vars(module):
        return None
    return type_before_parametrizations(module)


def has_plain_weights(module: nn.Module) -> bool:
    """Whether a module's weights are numbers that may be scaled and put in another order: those of
    a class that has functions of its own, as quantised ones do, may be something else.
    """
    kinds: set[Any] = {type(tensor) for tensor in module._parameters.values() if tensor is not None}
    usual = torch._C._disabled_torch_function_impl
    return all(kind.__torch_function__ is usual for kind in kinds - {Tensor, nn.Parameter})


def is_plain(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether a module does what its class says, with its own parameters."""
    return (
        type(module) is kind
        and kind_of(module) is kind
        and has_plain_weights(module)
        and not module._forward_pre_hooks  # what makes weights
    )


def is_plain_tensor(x: Tensor) -> bool:
    """Whether a tensor has values and is no more than these and, perhaps, the end of a graph that
    gradients run back through: an operation without a formula for anything else takes it.

    Torch's compiler and tracers, and its forward-mode derivatives, which would be zero without a
    word, need torch's own operations.
    """
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and x.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(x).tangent is None
    )


def plain_copy(module: nn.Module) -> Any:
    """What the class of a convolution, linear layer or batch norm says of it: such a module without
    hooks, whose parameters are the weights that this one computes with.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _MAKE_WEIGHTS):
            hook(module, ())  # the parameters may have changed since the last pass
    kind: Any = type_before_parametrizations(module)
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in vars(module).items():
        if name not in vars(made) and name != "forward" and not isinstance(value, Tensor):
            vars(made)[name] = copy.deepcopy(value)
    for name in ("weight", "bias"):
        given = getattr(module, name)
        own = None if given is None else nn.Parameter(given.detach().clone(), requires_grad=False)
        made.register_parameter(name, own)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        if name in module._buffers:
            held = module._buffers[name]
            made.register_buffer(name, None if held is None else held.clone())
    return made.train(module.training)

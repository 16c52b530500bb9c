"""A module of our own that computes what the user's does and shares its tensors: it can be frozen,
cut and hooked while theirs stays as it is, in the middle of its training say.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from lit_iba.errors import InputError

# What Lightning hangs on a module that it trains: no part of the network, and not to be copied.
_NO_PART = ("_trainer", "_fabric")
_EXPORTED = (
    "the model is a program of torch.export, which has neither layers to cut nor an eval mode; "
    "give the module that it was exported from"
)


def unwrapped(model: object) -> nn.Module:
    """The network inside what ``torch.compile``, ``DataParallel`` and their like put round it.

    Raises:
        InputError: It is no module of torch, or one that can be neither frozen nor run here.
    """
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)  # torch.compile
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if inner is None:
            break
        model = inner
    # The module of an exported program has methods of its own, which refuse.
    if type(model).__name__ == "ExportedProgram" or (
        isinstance(model, torch.fx.GraphModule) and "eval" in vars(model)
    ):
        raise InputError(_EXPORTED)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}, but must be a name or a torch.nn.Module; "
            "wrap what computes the logits in the forward of a module"
        )
    if type(model).__name__.startswith(("FullyShardedDataParallel", "FSDP")):
        raise InputError(
            f"the model is a {type(model).__name__}, whose weights are spread over processes; "
            "gather its state_dict into a plain module and give that"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                f"{name} of the model has no values yet; load its weights, or run it once, before "
                "it is explained"
            )
    return model


def own_copy(model: nn.Module) -> nn.Module:
    """The same modules once more, in eval mode, whose parameters share the memory of the ones given
    and need no gradient.

    A scripted module is copied with its weights, because TorchScript shares none.
    """
    made = _copied(model)
    for module in made.modules():
        # Compiled in place, a module would run the code that was made for the original.
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made.eval()


@contextmanager
def only_itself(model: nn.Module, original: nn.Module | None, name: str) -> Iterator[None]:
    """Refuse, while this lasts and before anything is computed, that a network runs what is no part
    of it: modules of the original that it was copied from, or such as no name leads to, whose
    weights and mode nobody can follow.

    Raises:
        InputError: It does.
    """
    own = {id(module) for module in model.modules()}
    theirs = set() if original is None else {id(module) for module in original.modules()} - own
    thread = threading.get_ident()

    def look(module: nn.Module, _: Any) -> None:
        if id(module) in own or threading.get_ident() != thread:
            return
        if id(module) in theirs:
            raise InputError(
                f"{name} runs the modules that it was given and not its copy's, because one of its"
                " attributes is a function made of them (model.forward = lambda ..., say); write"
                " that as a method of the class, or wrap the network"
            )
        if next(chain(module.parameters(), module.buffers()), None) is not None:
            raise InputError(
                f"{name} runs a {type(module).__name__} that is none of its submodules, so that its"
                " weights cannot be followed; make it an attribute, or put it into a nn.ModuleList"
            )

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def in_full_precision(model: nn.Module) -> nn.Module:
    """The module in float32, where it computes in 16 bits: sums over positions and logarithms need
    the digits, and gradients of float16 vanish.
    """
    if floating_parameter(model).dtype not in (torch.float16, torch.bfloat16):
        return model
    return model.float()


def floating_parameter(model: nn.Module) -> Tensor:
    """A parameter or buffer that says which device and dtype a network computes with."""
    tensors = chain(model.parameters(), model.buffers())  # asked often: the first is enough
    return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))


def _copied(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in _own_tensors(module):
            memo[id(value)] = aliased(value)
        for name in _NO_PART:
            if getattr(module, "__dict__", {}).get(name) is not None:
                memo[id(module.__dict__[name])] = None
    try:
        with torch.no_grad():  # TorchScript would record the copying
            return copy.deepcopy(model, dict(memo))
    except Exception:  # an attribute that cannot be copied, such as a file or a lock
        return _replica(model, memo, {})


def _own_tensors(module: nn.Module) -> list[Tensor]:
    if isinstance(module, torch.jit.ScriptModule):
        return []
    held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
    return [value for value in held if isinstance(value, Tensor)]


def aliased(tensor: Tensor) -> Tensor:
    """Another tensor in the same memory, with the same counter of changes and no gradient."""
    alias = tensor.clone() if tensor.is_inference() else tensor.detach()
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


def _replica(module: nn.Module, memo: dict[int, Any], done: dict[int, nn.Module]) -> nn.Module:
    """A copy of the tree of modules; it shares every attribute that is no module or tensor."""
    if id(module) in done:
        return done[id(module)]
    made = done[id(module)] = module.__new__(type(module))
    made.__dict__ = {name: memo.get(id(value), value) for name, value in vars(module).items()}
    for group in ("_parameters", "_buffers"):
        held = vars(module)[group]
        made.__dict__[group] = {name: memo.get(id(value), value) for name, value in held.items()}
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            made.__dict__[name] = copy.copy(value)
    made.__dict__["_modules"] = {
        name: None if child is None else _replica(child, memo, done)
        for name, child in module._modules.items()
    }
    return made

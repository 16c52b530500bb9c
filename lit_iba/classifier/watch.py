"""Whether a network's weights are still the ones that something was made of.

Folded and packed copies, traced graphs, hashes and explainers are made of weights, and weights
change: an optimiser steps, a state dict is loaded, layers are randomised. Torch counts the changes
of a tensor, which costs nothing to read; what goes past its counter (``tensor.data``) is seen by a
look at the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.classifier.kept_forms import forget
from lit_iba.classifier.own_copy import aliased, floating_parameter, in_full_precision
from lit_iba.errors import InputError

_Held = Mapping[str, Tensor | None]


class Watch:
    """Counts the states of a network's weights.

    Args:
        model: The network.
        original: The user's own module, of which ``model`` is a copy that shares its tensors. Where
            it gets other tensors (``.to``, ``load_state_dict(..., assign=True)``), the copy takes
            them over, until it is moved or cast itself. None for a network that is nobody else's.
    """

    def __init__(self, model: nn.Module, original: nn.Module | None = None) -> None:
        self.model, self.original = model, original
        self._scripted = any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())
        # TorchScript shares no tensors.
        self._follows = original is not None and not self._scripted
        self._held: list[_Held] = []
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self._state: list[Any] | None = None
        self._values: list[float] | None = None
        self._version = 0
        self._collect()
        # A copy in full precision has a memory of its own from the start.
        self._cast = any(
            mine.dtype != theirs.dtype and theirs.is_floating_point()
            for own, given in self._pairs
            for mine, theirs in zip(_tensors(own), _tensors(given), strict=True)
        )
        self._theirs = _state(given for _, given in self._pairs) if self._cast else []

    def version(self) -> int:
        """A number that grows whenever the weights have changed since it was last asked for.

        Raises:
            InputError: The user's module has other layers than when it was given.
        """
        if torch.compiler.is_compiling():  # a program is made of the weights as they are
            return self._version
        if self._cast:
            self._cast_again()
        elif self._pairs and self._left_behind():
            self._take_over()
            self._in_full_precision()
        state = [_seen(t) for held in self._held for t in held.values() if t is not None]
        if state != self._state:
            self._state, self._values = state, None
            self._renew()
        return self._version

    def look(self) -> int:
        """:meth:`version`, with a look at the values themselves: one of each parameter on the CPU,
        their norms on a GPU, where one value costs as much.
        """
        self._collect()
        self.version()
        values = self._sample()
        if self._values is not None and values != self._values:
            self._renew()
        self._values = values
        return self._version

    def _renew(self) -> None:
        """All weights count as others: beside a change that torch has counted there may be one
        that it has not, as where an optimiser writes to ``parameter.data`` and the batch norms'
        statistics follow.
        """
        self._version += 1
        forget(self.model.modules())

    def moved(self) -> None:
        """The copy has been moved or cast: where that gave it a memory of its own, it follows the
        user's module no longer.
        """
        if self._cast or self._left_behind():
            self._cast = False
            self._follows, self._pairs = False, []

    def _collect(self) -> None:
        modules = list(self.model.modules())
        if self._scripted:
            self._held = [dict(self.model.named_parameters()), dict(self.model.named_buffers())]
            return
        groups = [group for m in modules for group in (m._parameters, m._buffers)]
        self._held = [group for group in groups if group]
        if self.original is not None and self._follows:
            theirs = list(self.original.modules())
            kinds = [[type(m).__qualname__ for m in given] for given in (theirs, modules)]
            if kinds[0] != kinds[1]:
                raise InputError(
                    f"the layers of {type(self.original).__name__} are others than when it was "
                    "given to FrozenClassifier; make a new classifier"
                )
            self._pairs = list(zip(modules, theirs, strict=True))

    def _left_behind(self) -> bool:
        """Whether a tensor of the user's module is another one than ours."""
        for mine, theirs in self._pairs:
            for own, given in (
                (mine._parameters, theirs._parameters),
                (mine._buffers, theirs._buffers),
            ):
                for name, tensor in given.items():
                    held = own.get(name)
                    if held is None or tensor is None or held.data_ptr() == tensor.data_ptr():
                        continue
                    if not tensor.is_inference():  # those were copied, see aliased
                        return True
        return False

    def _take_over(self) -> None:
        for mine, theirs in self._pairs:
            for own, given in (
                (mine._parameters, theirs._parameters),
                (mine._buffers, theirs._buffers),
            ):
                for name, tensor in given.items():
                    held = own.get(name)
                    if held is None or tensor is None or tensor.is_inference():
                        continue
                    if held.shape != tensor.shape:
                        raise InputError(
                            f"{name} of {type(theirs).__name__} has another shape than when it was "
                            "given to FrozenClassifier; make a new classifier"
                        )
                    own[name] = aliased(tensor)  # type: ignore[assignment] # a parameter for one

    @torch.no_grad()
    def _in_full_precision(self) -> None:
        """Where the user's module has gone over to 16 bits, the copy gets a memory of its own."""
        if floating_parameter(self.model).dtype not in (torch.float16, torch.bfloat16):
            return
        in_full_precision(self.model)
        self._cast, self._theirs = True, _state(given for _, given in self._pairs)

    @torch.no_grad()
    def _cast_again(self) -> None:
        theirs = _state(given for _, given in self._pairs)
        if theirs != self._theirs:
            self._theirs = theirs
            for own, given in self._pairs:
                for mine, tensor in zip(_tensors(own), _tensors(given), strict=True):
                    mine.copy_(tensor)

    @torch.no_grad()
    def _sample(self) -> list[float]:
        taken: list[Tensor] = [
            p for p in self.model.parameters() if p.is_floating_point() and p.numel()
        ]
        if any(t.device.type != "cpu" for t in taken):
            return torch.stack([norm.cpu() for norm in torch._foreach_norm(taken)]).tolist()
        return [
            t.view(-1)[t.numel() // 2].item() if t.is_contiguous() else _middle(t) for t in taken
        ]


def _tensors(module: nn.Module) -> list[Tensor]:
    held = [*module._parameters.values(), *module._buffers.values()]
    return [t for t in held if t is not None]


def _seen(t: Tensor) -> tuple[int, int, int]:
    return id(t), t.data_ptr(), 0 if t.is_inference() else t._version


def _state(modules: Iterable[nn.Module]) -> list[Any]:
    return [_seen(t) for module in modules for t in _tensors(module)]


def _middle(t: Tensor) -> float:
    return float(t[tuple(size // 2 for size in t.shape)])

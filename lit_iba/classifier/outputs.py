"""One tensor of what a network gives, where that is a dict, a tuple, a dataclass or a
``ModelOutput`` of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.errors import InputError

Output = str | int


def selected(outputs: Any, output: Output) -> Any:
    """What stands under a key, an attribute or a place.

    Raises:
        InputError: There is nothing of that name; what there is, is listed.
    """
    if isinstance(output, int) and isinstance(outputs, tuple | list):
        if -len(outputs) <= output < len(outputs):
            return outputs[output]
    elif isinstance(outputs, Mapping):
        if output in outputs:
            return outputs[output]
    elif isinstance(output, str) and hasattr(outputs, output):
        return getattr(outputs, output)
    raise InputError(f"output is {output!r}, but the network gives {described(outputs)}")


def described(outputs: Any) -> str:
    """What a network gives, in words."""
    if isinstance(outputs, Tensor):
        return f"one tensor {tuple(outputs.shape)}; leave output out"
    if isinstance(outputs, Mapping):
        return f"{type(outputs).__name__}; say output={_one_of(list(outputs))}"
    if fields := getattr(outputs, "_fields", None):  # a namedtuple
        return f"{type(outputs).__name__}; say output={_one_of(list(fields))}"
    if isinstance(outputs, tuple | list):
        return f"{type(outputs).__name__}; say output={_one_of(list(range(len(outputs))))}"
    names = [name for name in getattr(outputs, "__dict__", {}) if not name.startswith("_")]
    if names:
        return f"{type(outputs).__name__}; say output={_one_of(names)}"
    return f"{type(outputs).__name__}; wrap it, so that it gives a tensor"


def _one_of(names: list[Any]) -> str:
    return " or ".join(repr(name) for name in names[:6])


def giving(model: nn.Module, output: Output) -> nn.Module:
    """The module itself, whose forward from now on gives one of its outputs.

    It is of a subclass of its class, so that its layers keep their names. Give a copy.

    Raises:
        InputError: The module's class cannot be changed.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise InputError(
            f"output is {output!r}, but a {type(model).__name__} cannot be given another forward; "
            "wrap it, so that it gives this output"
        )
    model.__class__ = _subclass(type(model), output)
    return model


_SUBCLASSES: dict[tuple[type[nn.Module], Output], Any] = {}  # made once, to be compared by type


def _subclass(kind: type[nn.Module], output: Output) -> Any:
    if (kind, output) not in _SUBCLASSES:
        _SUBCLASSES[kind, output] = _made(kind, output)
    return _SUBCLASSES[kind, output]


def _made(kind: type[nn.Module], output: Output) -> Any:
    def forward(self: nn.Module, images: Tensor) -> Any:
        return selected(kind.forward(self, images), output)

    def reduced(self: nn.Module) -> Any:
        return _empty, (kind, output), self.__dict__.copy()

    # The name is that of the class, so that its source is found where the user wrote it.
    names = {"forward": forward, "__reduce__": reduced, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names | {"__qualname__": kind.__qualname__})


def _empty(kind: type[nn.Module], output: Output) -> Any:
    cls = _subclass(kind, output)
    return cls.__new__(cls)

"""Other forms of a frozen layer's weights, such as another precision or the processor's own order:
made once, and shared by all that is made of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")

_forms: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[Any, Any]]] = WeakKeyDictionary()


def kept_form(
    layer: nn.Module, name: Hashable, make: Callable[[], T], *, shape: Hashable = ()
) -> T:
    """A form of a layer's own weights; it lives as long as the layer.

    Args:
        layer: With weights that need no gradient. Changes that torch counts are noticed; for
            others, see :func:`forget`.
        name: Of the form.
        make: Makes it; it may not refer to the layer.
        shape: What it is made for; only the last is kept.
    """
    given = [tensor for tensor in layer._parameters.values() if tensor is not None]
    state = shape, [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in given]
    forms = _forms.setdefault(layer, {})
    if name not in forms or forms[name][0] != state:
        with torch.inference_mode(False), torch.no_grad():
            forms[name] = state, make()
    form: T = forms[name][1]
    return form


def forget(layers: Iterable[nn.Module]) -> None:
    """Have every form of some layers' weights made again."""
    for layer in layers:
        _forms.pop(layer, None)


def cast(layer: nn.Conv2d | nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer in a precision, which autocast would cast at every call."""
    return kept_form(
        layer,
        dtype,
        lambda: (
            layer.weight.detach().to(dtype),
            None if layer.bias is None else layer.bias.detach().to(dtype),
        ),
    )

"""What a node of a traced network calls, and its arguments by name, however they were given."""

from __future__ import annotations

from typing import Any

import torch.fx as fx
from torch import nn

_TWO = ("input", "other")
_LIST = ("tensors", "dim")
# Names of arguments by place; what else is given by place is called by its number.
_PLACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add", "iadd", "sub", "isub", "mul", "imul"), _TWO),
    **dict.fromkeys(("truediv", "itruediv", "div", "matmul", "bmm"), _TWO),
    **dict.fromkeys(("cat", "concat", "stack"), _LIST),
    "conv2d": ("input", "weight", "bias"),
    "linear": ("input", "weight", "bias"),
    "batch_norm": (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    ),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "pad": ("input", "pad", "mode", "value"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask"),
}
# Other names that torch has, or takes for NumPy's sake.
_SAME = {"self": "input", "x": "input", "mat2": "other", "x2": "other", "axis": "dim"}


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def name_of(node: fx.Node) -> str:
    """Name of the function or method that a node calls: ``add_`` and ``add`` are both ``"add"``."""
    if node.op not in ("call_function", "call_method"):
        return ""
    name = (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )
    return name if name.endswith("__") else name.rstrip("_")


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name; the first one of any is its ``"input"``."""
    names = _PLACES.get(name_of(node), ("input",))
    given: dict[str, Any] = {
        names[place] if place < len(names) else str(place): value
        for place, value in enumerate(node.args)
    }
    return given | {_SAME.get(name, name): value for name, value in node.kwargs.items()}


def flowing_places(node: fx.Node, flowing: set[fx.Node]) -> set[str]:
    """Names of the arguments in which there is a node of ``flowing``."""
    found: set[str] = set()
    for name, value in arguments(node).items():
        nodes: list[fx.Node] = []
        fx.map_arg(value, nodes.append)
        if any(inner in flowing for inner in nodes):
            found.add(name)
    return found

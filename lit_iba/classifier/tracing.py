"""The graph of a module by ``torch.fx``, with a name for every step of it."""

from __future__ import annotations

import inspect
import operator
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from lit_iba.errors import InputError

_TRACING = threading.Lock()  # torch.fx puts functions of its own into torch.nn.Module meanwhile


@dataclass(frozen=True)
class Traced:
    """What a trace has found.

    Args:
        graph: The steps.
        names: Of every step.
        paths: The module in which each step was made; of a module that stays one step, itself.
        outputs: What the last run of each module gave, by the module's name and by that of the run;
            None where that is not one value.
    """

    graph: fx.Graph
    names: dict[fx.Node, str]
    paths: dict[fx.Node, str]
    outputs: dict[str, fx.Node | None]


def trace(model: nn.Module, leaves: Sequence[type[nn.Module]] = ()) -> Traced:
    """The graph of a module.

    Args:
        model: The module.
        leaves: Kinds of modules that stay one step each; those of ``torch.nn`` always do.

    Raises:
        InputError: A part of it runs without gradients. What else stops torch.fx is raised as it
            is.
    """
    tracer = _Tracer(leaves)
    with _TRACING, torch.enable_grad():
        graph = tracer.trace(model)
    if tracer.without_gradient:
        raise InputError("a part of it runs without gradients, which a graph would not keep")
    _read_what_was_written(model, graph)
    _take_any_order(model, graph)
    _take_sizes_of_shapes(graph)
    runs = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    names, outputs = _names(model, graph, tracer.paths, runs), tracer.outputs
    known = {*names.values(), *(name for name, _ in model.named_modules())}
    for path, number in runs.items():
        # As torchvision names it; what it calls ``relu`` is the first run.
        if number > 1 and (last := f"{path}_{number - 1}") not in known:
            outputs[last] = outputs[path]
    return Traced(graph, names, tracer.paths, outputs)


class _Tracer(fx.Tracer):
    """Remembers in which module each step was made and what each module gave; leaves other threads
    alone, and reads buffers in the graph rather than once.
    """

    proxy_buffer_attributes = True

    def __init__(self, leaves: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self._leaves, self._thread = tuple(leaves), threading.get_ident()
        self._path = ""
        self.paths: dict[fx.Node, str] = {}
        # Of the last run of every module; None where it is not one value.
        self.outputs: dict[str, fx.Node | None] = {}
        self.without_gradient = False

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The images alone: whatever else the network could be given has its default."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        outer, path = self._path, self.path_of_module(m)
        self._path = path
        try:
            if self.is_leaf_module(m, path):
                output = self.create_proxy("call_module", path, args, kwargs)
            else:
                output = forward(*args, **kwargs)
        finally:
            self._path = outer
        self.outputs[path] = output.node if isinstance(output, fx.Proxy) else None
        return output

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        self.paths[proxy.node] = self._path
        self.without_gradient |= not torch.is_grad_enabled()
        return proxy

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def lost_hook(model: nn.Module) -> str | None:
    """The first module of several steps that has a backward hook, which no graph keeps; None where
    there is none.
    """
    tracer = fx.Tracer()
    for name, module in model.named_modules():
        hooks = module._backward_hooks or module._backward_pre_hooks
        if hooks and not (name and tracer.is_leaf_module(module, name)):
            return name or type(module).__name__
    return None


def _names(
    model: nn.Module, graph: fx.Graph, paths: dict[fx.Node, str], runs: Counter[str]
) -> dict[fx.Node, str]:
    """A name for every step, which no other step and no module has: a module's is its own, earlier
    runs of it are ``relu_0``, ``relu_1``; what a module does itself is ``layer1.0.add``, and once
    more ``layer1.0.add_1``.
    """
    taken = {name for name, _ in model.named_modules(remove_duplicate=False)}
    left, names = runs.copy(), {}
    numbers: dict[tuple[str, int], Iterator[int]] = {}

    def free(stem: str, first: int) -> str:
        number = numbers.setdefault((stem, first), count(first))
        return next(name for n in number if (name := f"{stem}_{n}") not in taken)

    for node in graph.nodes:
        if node not in paths:
            continue
        if node.op == "call_module":
            name = str(node.target)
            left[name] -= 1
            name = free(name, 0) if left[name] else name
        else:
            name = ".".join(filter(None, [paths[node], re.sub(r"_\d+$", "", node.name)]))
            name = free(name, 1) if name in taken else name
        taken.add(name)
        names[node] = name
    return names


def _read_what_was_written(model: nn.Module, graph: fx.Graph) -> None:
    """What reads a value after it was overwritten reads the result of the overwriting, which the
    network's code may have ignored: ``self.relu(x)``, say.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            if works_in_place(model, node, source):
                for user in list(source.users):
                    if place[user] > place[node]:
                        user.replace_input_with(source, node)


def _take_any_order(model: nn.Module, graph: fx.Graph) -> None:
    """Have ``x.view(...)`` take maps whose channels lie side by side in memory, too; it gives the
    same, but where its result is overwritten in place of ``x``.
    """
    other = {"view": "reshape", "view_as": "reshape_as"}
    for node in graph.nodes:
        if (
            node.op == "call_method"
            and node.target in other
            and not any(isinstance(v, torch.dtype) for v in (*node.args, *node.kwargs.values()))
            and not any(works_in_place(model, user, node) for user in node.users)
        ):
            node.target = other[node.target]


def _take_sizes_of_shapes(graph: fx.Graph) -> None:
    """Have ``x.size(2)`` read the shape: a number does not say whether it counts images."""
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "size":
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            if axis not in (None, 0):
                node.args, node.kwargs = node.args[:1], {}
                with graph.inserting_after(node):
                    entry = graph.call_function(operator.getitem, (node, axis))
                node.replace_all_uses_with(entry, lambda user, entry=entry: user is not entry)


def works_in_place(model: nn.Module, user: fx.Node, value: fx.Node) -> bool:
    """Whether ``user`` overwrites ``value``."""
    if not user.args or user.args[0] is not value:
        return False
    if user.op == "call_module":
        return bool(getattr(model.get_submodule(str(user.target)), "inplace", False))
    if user.op == "call_method":
        return str(user.target).endswith("_") and not str(user.target).endswith("__")
    if user.op == "call_function":
        name = getattr(user.target, "__name__", "")
        in_place_operator = getattr(user.target, "__module__", "") == "_operator" and name in (
            "iadd",
            "isub",
            "imul",
            "itruediv",
        )
        return (
            in_place_operator
            or bool(_argument(user, "inplace"))
            or (name.endswith("_") and not name.endswith("__"))
        )
    return False


def _argument(call: fx.Node, name: str) -> Any:
    """An argument of a function call, given by name or by place; None where it was not given."""
    try:
        return inspect.signature(call.target).bind(*call.args, **call.kwargs).arguments.get(name)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # functions of C++ have no signature
        return call.kwargs.get(name)

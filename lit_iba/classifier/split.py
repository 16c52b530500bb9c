"""Cutting a classifier behind a layer: images -> (R, carried values) -> logits, with the traced
graph.

``head`` computes R and whatever else the rest needs (a skip connection, say); ``tail`` runs only
what depends on R. Both share the classifier's own modules: nothing is copied. Where the network
cannot be traced, ``hooked.HookedNetwork`` makes the same cuts and runs the whole network each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torchvision.models.feature_extraction import NodePathTracer

from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.fusing import made_fast
from lit_iba.errors import InputError, unknown_name

Carried = tuple[
    Any, ...
]  # tensors whose rows belong to the images, and shapes whose first entry counts them


def repeat_carried(carried: Carried, copies: int) -> Carried:
    """Carried values for ``copies`` times the batch, copy after copy: (copies * B, ...).

    Example:
        >>> from lit_iba.classifier import repeat_carried
        >>> split = classifier.split("layer2")
        >>> feature, carried = split.head(images)
        >>> split.tail(feature.repeat(5, 1, 1, 1), repeat_carried(carried, 5)).shape
        torch.Size([10, 10])
    """
    repeated: list[Any] = []
    for value in carried:
        if isinstance(value, Tensor):
            repeated.append(value.repeat(copies, *[1] * (value.ndim - 1)))
        elif isinstance(value, (tuple, list)):
            repeated.append(torch.Size([value[0] * copies, *value[1:]]))
        else:
            repeated.append(value * copies)
    return tuple(repeated)


class Split:
    """A classifier cut behind a layer.

    Attributes:
        layer: Name of the layer whose output is R.
        observer: The function behind :meth:`observe`, a module where the network could be traced;
            None without taps.

    Example:
        >>> split = classifier.split("layer2")
        >>> feature, carried = split.head(images)
        >>> feature.shape
        torch.Size([2, 64, 16, 16])
        >>> split.tail(feature, carried).shape
        torch.Size([2, 10])
    """

    def __init__(self, layer: str, head: Any, tail: Any, observe: Any) -> None:
        self.layer = layer
        self._head, self._tail, self.observer = head, tail, observe
        self._folded: dict[str, Any] = {}

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        """Images (B, 3, H, W) to R and the values that cross the cut beside it."""
        r, *carried = self._head(images)
        return r, tuple(carried)

    def tail(self, r: Tensor, carried: Carried = ()) -> Tensor:
        """R to logits (B, K). For n copies of a batch, repeat the carried values with
        :func:`repeat_carried`.
        """
        return self._tail(r, *carried)

    def folded_head(self, images: Tensor) -> tuple[Tensor, Carried]:
        """:meth:`head` with batch norms folded into copies of the convolutions: faster where it
        runs many times.
        """
        r, *carried = self._fold("head", self._head, images)(images)
        return r, tuple(carried)

    def folded_tail(self, r: Tensor, carried: Carried = ()) -> Tensor:
        """:meth:`tail`, likewise."""
        return self._fold("tail", self._tail, r)(r, *carried)

    def folded_observe(self, images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
        """:meth:`observe`, likewise."""
        r, carried, taps = self._fold("observe", self.observer, images)(images)
        return r, tuple(carried), taps

    def _fold(self, part: str, run: Any, inputs: Tensor) -> Any:
        made_for = (
            inputs.device,
            inputs.dtype,
        )  # the copies do not follow when the classifier is moved
        if part not in self._folded or self._folded[part][0] != made_for:
            made = made_fast(run) if isinstance(run, fx.GraphModule) else run
            self._folded[part] = made_for, made
        return self._folded[part][1]

    def observe(self, images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
        """One forward pass that gives R, the carried values, and the feature maps of the taps asked
        for.
        """
        r, carried, taps = self.observer(images)
        return r, tuple(carried), taps


class TracedNetwork:
    """The classifier's graph, from which heads, tails and taps are made.

    Example:
        >>> from lit_iba.classifier import SmallCNN, TracedNetwork
        >>> network = TracedNetwork(SmallCNN().eval())
        >>> "layer2" in network.layers()
        True
        >>> feature, carried = network.split("layer2").head(images)
        >>> feature.shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(self, model: nn.Module, name: str = "the classifier") -> None:
        self.model, self.name = model, name
        tracer = NodePathTracer(leaf_modules=[])
        self.graph = tracer.trace(model)
        self.names: dict[fx.Node, str] = tracer.node_to_qualname
        self.nodes = list(self.graph.nodes)
        self.input = next(n for n in self.nodes if n.op == "placeholder")
        self.of_images = self.descendants(self.input)

    def layers(self) -> list[str]:
        """Every name that can be given to :meth:`split` or :meth:`taps`, in order of execution."""
        names: dict[str, None] = {}
        for node in self.nodes:
            if (
                node not in self.of_images
                or node.op in ("placeholder", "output")
                or self.is_size(node)
            ):
                continue
            parts = self.names.get(node, node.name).split(".")
            for length in range(1, len(parts) + 1):
                names.setdefault(".".join(parts[:length]))
        return list(names)

    def node_of(self, layer: str) -> fx.Node:
        """The node whose output is the layer's."""
        found = [
            n
            for n in self.nodes
            if self.names.get(n, "") == layer or self.names.get(n, "").startswith(layer + ".")
        ]
        found = [n for n in found if n in self.of_images]
        if not found:
            raise unknown_name(
                f"layer of {self.name}", layer, self.layers(), "(see classifier.layers())"
            )
        return found[-1]

    def descendants(self, start: fx.Node) -> set[fx.Node]:
        """The node and whatever depends on it."""
        reached = {start}
        for node in self.nodes:  # in order of execution, so that one pass is enough
            if any(n in reached for n in node.all_input_nodes):
                reached.add(node)
        return reached

    def logits_node(self) -> fx.Node:
        """The node of the network's output."""
        return next(n for n in self.nodes if n.op == "output").all_input_nodes[0]

    def is_size(self, node: fx.Node) -> bool:
        """Whether a node computes with shapes rather than with tensors: such values are made again
        behind the cut.
        """
        if _is_shape(node):
            return True
        return (
            node.op == "call_function"
            and bool(node.all_input_nodes)
            and all(map(self.is_size, node.all_input_nodes))
        )

    def _copy(self, target: fx.Graph, node: fx.Node, env: dict[fx.Node, fx.Node]) -> fx.Node:
        """The node's counterpart in another graph, with whatever it needs copied before it."""
        if node not in env:
            for needed in node.all_input_nodes:
                self._copy(target, needed, env)
            env[node] = target.node_copy(node, lambda n: env[n])
        return env[node]

    def extract(self, outputs: Any) -> fx.GraphModule:
        """A module from images to any structure of nodes, computing nothing else."""
        wanted: set[fx.Node] = set()
        fx.map_arg(outputs, wanted.add)
        needed, pending = set(), list(wanted)
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending.extend(node.all_input_nodes)
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        kept: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            if node in needed or node is self.input:
                env[node] = graph.node_copy(node, lambda n: env[n])
                if node in wanted and any(
                    works_in_place(self.model, user, node) and user in needed for user in node.users
                ):
                    kept[node] = graph.call_method("clone", (env[node],))
        graph.output(fx.map_arg(outputs, lambda n: kept.get(n, env[n])))
        return graph_module(self.model, graph)

    def whole(self) -> fx.GraphModule:
        """A module from images to logits: the network itself."""
        return self.extract(self.logits_node())

    def split(self, layer: str, taps: Sequence[str] = ()) -> Split:
        """Cut behind ``layer``; ``taps`` name the layers that ``Split.observe`` returns besides."""
        cut = self.node_of(layer)
        behind = self.descendants(cut)
        carried: dict[fx.Node, None] = {}

        def find_carried(node: fx.Node) -> None:
            if node is cut or node in carried or node not in self.of_images:
                return  # what does not depend on the images is computed again on the side that uses it
            if self.is_size(node) and not _is_shape(node):
                for source in node.all_input_nodes:
                    find_carried(source)
            else:
                carried.setdefault(node)

        crossing = [n for n in self.nodes if n in behind and n is not cut]
        if self.logits_node() not in behind or not crossing:
            raise InputError(
                f"the classifier's output does not depend on layer {layer!r}; choose one before it"
            )
        for node in crossing:
            for source in node.all_input_nodes:
                if source not in behind:
                    find_carried(source)

        tail = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in [cut, *carried]:
            env[node] = tail.placeholder(node.name)
        for node in [cut, *carried]:
            if any(works_in_place(self.model, user, node) for user in node.users if user in behind):
                env[node] = tail.call_method("clone", (env[node],))
        for node in crossing:
            if node.op == "output":
                tail.output(env[self.logits_node()])
            else:
                self._copy(tail, node, env)
        tail_module = graph_module(self.model, tail)
        tail_module.graph.eliminate_dead_code()
        tail_module.recompile()
        head = self.extract((cut, *carried))
        observe = (
            self.extract((cut, tuple(carried), {name: self.node_of(name) for name in taps}))
            if taps
            else None
        )
        return Split(layer, head, tail_module, observe)

    def taps(self, layers: Iterable[str]) -> fx.GraphModule:
        """A module from images to a dict of the named layers' outputs."""
        return self.extract({name: self.node_of(name) for name in layers})

    def logits_and_taps(self, layers: Iterable[str]) -> fx.GraphModule:
        """A module from images to logits and a dict of the named layers' outputs."""
        return self.extract((self.logits_node(), {name: self.node_of(name) for name in layers}))


def _is_shape(node: fx.Node) -> bool:
    """``x.shape`` or ``x.size(...)``: its first entry counts the images."""
    if node.op == "call_function" and node.target is getattr:
        return bool(node.args[1] == "shape")
    return (
        node.op == "call_method"
        and node.target == "size"
        and bool(len(node.args) == 1 or node.args[1] == 0)
    )


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

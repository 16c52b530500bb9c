"""The graph of a classifier, by ``torch.fx``, cut behind any layer.

The parts share the classifier's own modules: nothing is copied.
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch.fx as fx
from torch import nn
from torchvision.models.feature_extraction import NodePathTracer

from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.split import Split
from lit_iba.errors import InputError, unknown_name

_TRACING = threading.Lock()  # torch.fx puts functions of its own into torch.nn.Module meanwhile


class _Tracer(NodePathTracer):  # type: ignore[misc] # torchvision has no types
    """Leaves other threads alone, and reads buffers in the graph rather than once."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: Sequence[type[nn.Module]]) -> None:
        super().__init__(leaf_modules=list(leaves))
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class TracedNetwork:
    """The classifier's graph, from which heads, tails and taps are made.

    Args:
        model: The network.
        name: What it is called in errors.
        overwrites: Whether it writes into its images, which are then copied first.
        leaves: Kinds of modules that stay one step each; those of ``torch.nn`` always do.

    Example:
        >>> from lit_iba.classifier import SmallCNN, TracedNetwork
        >>> network = TracedNetwork(SmallCNN().eval())
        >>> "layer2" in network.layers()
        True
        >>> feature, carried = network.split("layer2").head(images)
        >>> feature.shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        name: str = "the classifier",
        overwrites: bool = False,
        leaves: Sequence[type[nn.Module]] = (),
    ) -> None:
        self.model, self.name, self.overwrites = model, name, overwrites
        tracer = _Tracer(leaves)
        with _TRACING:
            self.graph = tracer.trace(model)
        _read_what_was_written(model, self.graph)
        self.names: dict[fx.Node, str] = tracer.node_to_qualname
        self.nodes = list(self.graph.nodes)
        self.input = next(n for n in self.nodes if n.op == "placeholder")
        self.of_images = self.descendants(self.input)
        self._cuts: set[fx.Node] | None = None  # once somebody has asked

    def layers(self) -> list[str]:
        """Every name that can be given to :meth:`split` or :meth:`taps`, in order of execution."""
        names: dict[str, None] = {}
        for node in self.nodes:
            if (
                node not in self.of_images
                or node.op in ("placeholder", "output")
                or self.is_size(node)
                or _is_several(node)
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

    def on_the_way(self) -> list[fx.Node]:
        """The operations between images and logits, as they are run, without those on shapes."""
        needed = {self.logits_node()}
        for node in reversed(self.nodes):
            if node in needed:
                needed.update(
                    n for n in node.all_input_nodes if n in self.of_images and not self.is_size(n)
                )
        return [node for node in self.nodes if node in needed and node is not self.input]

    def cuts(self) -> set[fx.Node]:
        """The nodes that every path from the images to the logits goes through."""
        if self._cuts is None:
            self._cuts = self._find_cuts()
        return self._cuts

    def _find_cuts(self) -> set[fx.Node]:
        # In an order of execution, a node is such a cut if no edge leads past it.
        place = {node: i for i, node in enumerate([self.input, *self.on_the_way()])}
        reach = [0] * len(place)  # for each place, the farthest user of anything up to there
        for node, i in place.items():
            reach[i] = max([place[user] for user in node.users if user in place], default=i)
        farthest, cuts = 0, set()
        for node, i in place.items():
            if farthest <= i:
                cuts.add(node)
            farthest = max(farthest, reach[i])
        return cuts

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
                if node is self.input and self.overwrites:
                    env[node] = graph.call_method("clone", (env[node],))
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
                return  # what does not depend on the images is computed where it is used
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


def _is_several(node: fx.Node) -> bool:
    """Whether a node gives tensors that are only taken apart: ``q, k, v = x.unbind()``."""
    return bool(node.users) and all(
        user.op == "call_function"
        and user.target is operator.getitem
        and isinstance(user.args[1], int)
        for user in node.users
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

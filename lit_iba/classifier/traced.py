"""The graph of a classifier, by ``torch.fx``, cut behind any layer.

The parts share the classifier's own modules: nothing is copied.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.split import Split
from lit_iba.classifier.tracing import trace, works_in_place
from lit_iba.errors import InputError, unknown_name


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
        traced = trace(model, leaves)
        self.graph, self.names = traced.graph, traced.names
        self._paths, self._outputs = traced.paths, traced.outputs
        self.nodes = list(self.graph.nodes)
        self.input = next(n for n in self.nodes if n.op == "placeholder")
        self.of_images = self.descendants(self.input)
        self._cuts: set[fx.Node] | None = None  # once somebody has asked
        self._constant = self._find_constant()

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
        """The node whose output is the layer's: of a module that runs several times, that of its
        last run; of one that gives several values, its last step.
        """
        node = self._outputs.get(layer)
        if node is not None:
            node = self._as_left(node, layer)
        else:
            inside = f"{layer}."
            steps = [
                n
                for n in self.nodes
                if (name := self.names.get(n, "")) == layer or name.startswith(inside)
            ]
            node = next((n for n in reversed(steps) if n in self.of_images), None)
        if node is None or node is self.input or node not in self.of_images:
            raise unknown_name(
                f"layer of {self.name}", layer, self.layers(), "(see classifier.layers())"
            )
        return node

    def _as_left(self, node: fx.Node, path: str) -> fx.Node:
        """What has become of a module's output within the module, which may overwrite it."""
        for later in self.nodes:
            where = self._paths.get(later, "")
            inside = where == path or where.startswith(path + ".")
            if inside and works_in_place(self.model, later, node):
                node = later
        return node

    def _cut_at(self, layer: str) -> fx.Node:
        """:meth:`node_of` a layer that gives one value."""
        if layer in self._outputs and self._outputs[layer] is None:
            raise InputError(
                f"layer {layer!r} of {self.name} gives several values, where a feature map (B, "
                "...) is needed; choose a layer inside it (see classifier.layers())"
            )
        return self.node_of(layer)

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
        """The operations between images and logits, as they are run, without those whose values
        the images have no part in.
        """
        needed = {self.logits_node()}
        for node in reversed(self.nodes):
            if node in needed:
                needed.update(n for n in node.all_input_nodes if n not in self._constant)
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
        """Whether a node computes with shapes rather than with tensors, or makes a tensor of them:
        ``torch.zeros(len, x.size(0), device=x.device)``.
        """
        if _is_shape(node) or _is_kind(node) or _is_filled(node):
            return True
        return (
            node.op in ("call_function", "call_method")
            and bool(node.all_input_nodes)
            and all(map(self.is_size, node.all_input_nodes))
        )

    def _find_constant(self) -> set[fx.Node]:
        """The nodes whose values are the same for all images of one size: they are made again
        behind a cut, since which of their axes counts the images, if any, is not known.
        """
        constant: set[fx.Node] = set()
        for node in self.nodes:
            if node not in self.of_images or (
                node.op in ("call_function", "call_method", "call_module")
                and (self.is_size(node) or all(n in constant for n in node.all_input_nodes))
            ):
                constant.add(node)
        return constant

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
        cut = self._cut_at(layer)
        behind = self.descendants(cut)
        carried: dict[fx.Node, None] = {}

        def find_carried(node: fx.Node) -> None:
            if node is cut or node in carried or node not in self.of_images:
                return  # what does not depend on the images is computed where it is used
            if node in self._constant and not _is_shape(node) and not _is_kind(node):
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
            self.extract((cut, tuple(carried), {name: self._cut_at(name) for name in taps}))
            if taps
            else None
        )
        return Split(layer, head, tail_module, observe)

    def taps(self, layers: Iterable[str]) -> fx.GraphModule:
        """A module from images to a dict of the named layers' outputs."""
        return self.extract({name: self._cut_at(name) for name in layers})

    def logits_and_taps(self, layers: Iterable[str]) -> fx.GraphModule:
        """A module from images to logits and a dict of the named layers' outputs."""
        return self.extract((self.logits_node(), {name: self._cut_at(name) for name in layers}))


def _is_shape(node: fx.Node) -> bool:
    """``x.shape`` or ``x.size(...)``: its first entry counts the images."""
    if node.op == "call_function" and node.target is getattr:
        return bool(node.args[1] == "shape")
    return (
        node.op == "call_method"
        and node.target == "size"
        and bool(len(node.args) == 1 or node.args[1] == 0)
    )


def _is_kind(node: fx.Node) -> bool:
    """``x.device`` or ``x.dtype``."""
    return (
        node.op == "call_function"
        and node.target is getattr
        and node.args[1] in ("device", "dtype")
    )


def _is_filled(node: fx.Node) -> bool:
    """``torch.zeros_like(x)``, ``x.new_zeros(...)`` and their like: of ``x`` they take its shape or
    its dtype alone.
    """
    if node.op == "call_method":
        return node.target in ("new_zeros", "new_ones", "new_full")
    return node.op == "call_function" and node.target in (
        torch.zeros_like,
        torch.ones_like,
        torch.full_like,
    )


def _is_several(node: fx.Node) -> bool:
    """Whether a node gives tensors that are only taken apart: ``q, k, v = x.unbind()``."""
    return bool(node.users) and all(
        user.op == "call_function"
        and user.target is operator.getitem
        and isinstance(user.args[1], int)
        for user in node.users
    )

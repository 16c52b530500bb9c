"""Which layers a network has: found in its graph, or named by the user; which biases lie above each
of them.

The layers of Grabska-Barwińska: every convolution of a plain network (13 in VGG-16), every block of
a branching one (the stem and 16 blocks of ResNet-50, the Inception modules of GoogLeNet, the Fire
modules of SqueezeNet). Each is a place through which everything passes on its way from the image to
the class score, so that equation 13 holds there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Self

import torch
import torch.fx as fx
from torch import nn

from lit_iba.activity.calls import module_of, name_of
from lit_iba.activity.detached import Gates
from lit_iba.activity.operations import add_bias, inexact_name, is_gate, is_pointwise, is_weighted
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError

INPUT, AUTO = "input", "auto"
SIZES = ("size", "dim", "numel")  # methods of a tensor that pass on nothing of it


class NetworkLayers:
    """The layers of a traced classifier, their nodes, and the nodes that have a bias.

    Args:
        classifier: The network.
        names: Its layers, in any order; None finds them.
        gates: Whether smooth activations, normalisation, gates and attention are differentiated, as
            in the paper, or their gates, scales and weights detached (see ``detached.py``), so that
            equation 13 holds for them too.

    Attributes:
        names: The layers from the image upwards, without the input.
        bias_nodes: Every node with a bias, by name, from the image upwards.
        owner: The layer whose bias a node's is: the first one above it; its own name above the last
            layer.
        flowing: The nodes that the images' gradient flows through.
        inexact: Operations that equation 13 does not allow, such as ``GELU``; empty for a ReLU
            network.

    Raises:
        InputError: The network cannot be traced, no layer is found, or a name is unknown.

    Example:
        >>> from lit_iba.activity import NetworkLayers
        >>> layers = NetworkLayers(classifier)
        >>> layers.names
        ['layer1.0', 'layer1.1', 'layer2.0', 'layer2.1', 'layer3.1', 'layer3.2']
        >>> layers.inexact
        []
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        names: Sequence[str] | None = None,
        gates: Gates = "differentiated",
    ) -> None:
        check_literals(NetworkLayers.__init__, locals())
        network = classifier.cuttable
        if isinstance(network, HookedNetwork):
            raise InputError(
                f"{classifier.name} cannot be traced, so that its layers and biases are not known; "
                "use the method 'activity' with a list of its modules"
            )
        self.network, self.classifier, self.gates = network, classifier, gates
        self._relevant = network.on_the_way()
        self._cuts = network.cuts()
        self._place = {node: place for place, node in enumerate(network.nodes)}
        if names is not None and (not names or INPUT in names):
            raise InputError(
                "the list of a network's layers is empty or holds 'input', which is no layer; name "
                "its layers"
            )
        found = (
            self._discover() if names is None else {name: network.node_of(name) for name in names}
        )
        self._nodes = dict(sorted(found.items(), key=lambda item: self._place[item[1]]))
        self.names = list(self._nodes)
        self.flowing = self._find_flowing()
        self.bias_nodes = self._find_biases()
        self.owner = {name: self._owner(name, node) for name, node in self.bias_nodes.items()}
        self.inexact = self._find_inexact()
        if not classifier.objective.linear:
            self.inexact.append(f"{classifier.objective.record['name']} objective")

    @classmethod
    def of(
        cls,
        classifier: FrozenClassifier,
        names: Sequence[str] | None = None,
        gates: Gates = "differentiated",
    ) -> Self:
        """The same, found once for all explainers of a classifier, until its weights change."""
        key = (cls, None if names is None else tuple(names), gates)
        found: Self = classifier.of_weights(key, lambda: cls(classifier, names, gates))
        return found

    def node(self, layer: str) -> fx.Node:
        """The node of any layer of the network, or of ``"input"``.

        Raises:
            InputError: There is none of that name.
        """
        return (
            self.network.input
            if layer == INPUT
            else self._nodes.get(layer) or self.network.node_of(layer)
        )

    def in_order(self, layers: Sequence[str]) -> list[str]:
        """Any of the network's layers, from the image upwards, each once."""
        return sorted(dict.fromkeys(layers), key=lambda layer: self._place[self.node(layer)])

    def is_complete(self, layer: str) -> bool:
        """Whether equation 13 holds at a layer: the network is exact, and nothing goes past the
        layer.
        """
        return not self.inexact and self.node(layer) in self._cuts

    def biases_above(self, layer: str) -> list[str]:
        """Names of the bias nodes that act on a layer's output: l' > l in equation 13."""
        above = self.network.descendants(self.node(layer)) - {self.node(layer)}
        return [name for name, node in self.bias_nodes.items() if node in above]

    def bias_layers(self) -> list[str]:
        """The layers that have a bias, from the image upwards; those above the last layer by their
        nodes' names.
        """
        return list(dict.fromkeys(self.owner.values()))

    def _owner(self, name: str, node: fx.Node) -> str:
        above = self.network.descendants(node)
        return next((layer for layer in self.names if self._nodes[layer] in above), name)

    def _find_flowing(self) -> set[fx.Node]:
        """From the images upwards as far as a gradient comes back from the logits."""
        network, detached = self.network, self.gates == "detached"
        closed = {n for n in network.nodes if detached and is_gate(network.model, n)}
        reached, sizes = {network.input}, self._sizes()
        for node in self._relevant:
            if node not in closed | sizes and any(n in reached for n in node.all_input_nodes):
                reached.add(node)
        flowing = {network.logits_node()}
        for node in reversed([network.input, *self._relevant]):
            if node in reached and any(user in flowing for user in node.users):
                flowing.add(node)
        return flowing

    def _sizes(self) -> set[fx.Node]:
        """Nodes that give sizes, and numbers that are computed from sizes alone."""
        found: set[fx.Node] = set()
        for node in self.network.nodes:
            inputs = node.all_input_nodes
            computed = node.op == "call_function" and inputs and all(n in found for n in inputs)
            if computed or self.network.is_size(node) or name_of(node) in SIZES:
                found.add(node)
        return found

    def _find_inexact(self) -> list[str]:
        model, flowing = self.network.model, self.flowing
        if self.network.input in flowing:
            on_the_way = [node for node in self._relevant if node in flowing]
            found = [inexact_name(model, node, flowing, self.gates) for node in on_the_way]
        else:  # nothing of the images goes past the gates
            closed = [node for node in self._relevant if is_gate(model, node)]
            found = [name_of(n) or type(module_of(model, n)).__name__ for n in closed]
        return sorted({name for name in found if name})

    def _find_biases(self) -> dict[str, fx.Node]:
        """By trial: the nodes that :func:`add_bias` has something to add for."""
        model, trial = self.network.model, fx.Graph()
        stand_in = trial.placeholder("stand_in")

        def copied(given: object) -> object:
            return stand_in if isinstance(given, fx.Node) else given

        nodes = [
            node
            for node in self._relevant
            if node in self.flowing
            and add_bias(trial, model, node, self.flowing, copied, stand_in, self.gates) is not None
        ]
        return {self.network.names.get(node, node.name): node for node in nodes}

    def _discover(self) -> dict[str, fx.Node]:
        """Layers by the rule of the module docstring, those with positions only."""
        candidates, blocks = self._candidates()
        model, names = self.network.model, self.network.names
        kept: dict[fx.Node, str | None] = {}
        for node in candidates:
            around = _parents(names.get(node, node.name))
            block = next(
                (name for name in around if type(model.get_submodule(name)) in blocks), None
            )
            end = node if block is None else self.network.node_of(block)
            if end in self._cuts:
                kept[end] = block
        with_positions = self._with_positions(list(kept))
        found = {
            kept[node] or self._short_name(node, with_positions): node for node in with_positions
        }
        if not found:
            raise InputError(
                f"no layer with positions was found in {self.classifier.name}; name the layers "
                "(see classifier.layers())"
            )
        return found

    def _candidates(self) -> tuple[list[fx.Node], set[type[nn.Module]]]:
        """Cuts at which a layer ends, and the classes of the modules inside of which the network
        branches.
        """
        model, names = self.network.model, self.network.names
        found: list[fx.Node] = []
        blocks: set[type[nn.Module]] = set()
        pending: fx.Node | None = None
        stretch: list[fx.Node] = []
        for node in self._relevant:
            stretch.append(node)
            if node not in self._cuts:
                continue
            if len(stretch) > 1:
                parents = [_parents(names.get(n, n.name)) for n in stretch]
                common = takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
                inner = [level[0] for level in common][-1:]
                # What gives no feature map is no block: a network in a wrapper, say.
                blocks |= {
                    type(model.get_submodule(name))
                    for name in inner
                    if not isinstance(model.get_submodule(name), nn.Sequential)
                    and self._with_positions([self.network.node_of(name)])
                }
            if any(is_weighted(model, n) for n in stretch):
                found += [pending] if pending is not None else []
                pending = node
            elif pending is not None and not (len(stretch) == 1 and is_pointwise(model, node)):
                found, pending = [*found, pending], None
            else:
                pending = node if pending is not None else None
            stretch = []
        return found + ([pending] if pending is not None else []), blocks

    @torch.no_grad()
    def _with_positions(self, nodes: list[fx.Node]) -> list[fx.Node]:
        images = self.classifier.empty_images()
        outputs = self.network.extract(tuple(nodes))(images)
        size = (images.shape[-2], images.shape[-1])
        return [
            node
            for node, output in zip(nodes, outputs, strict=True)
            if isinstance(output, torch.Tensor)
            and len(output) == len(images)
            and layout_of(self.classifier, node, output, size) is not None
        ]

    def _short_name(self, node: fx.Node, others: list[fx.Node]) -> str:
        """The outermost name whose last operation this is and that has no other layer inside."""
        name = self.network.names.get(node, node.name)
        for short in [*_parents(name), name]:
            inside = [
                n
                for n in others
                if self.network.names.get(n, n.name).startswith(short + ".") and n is not node
            ]
            if self.network.node_of(short) is node and not inside:
                return short
        return name


def layout_of(
    classifier: FrozenClassifier,
    layer: str | fx.Node,
    output: object,
    image_size: tuple[int, int],
) -> Layout | None:
    """Where the positions of a layer's or node's output (B, ...) are; None where it has not more
    than one.
    """
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
        return None
    if layer == INPUT:
        return Layout("BCHW", *image_size)
    try:
        layout = classifier.layout_of(layer, output.shape, image_size)
    except InputError:
        return None
    return layout if layout.height * layout.width > 1 else None


def chosen_layers(layers: str | int | Sequence[str], known: Sequence[str]) -> list[str]:
    """The layers that a setting names.

    Args:
        layers: ``"all"``, ``"all_but_input"``, how many from the top, or a list of names,
            ``"input"`` among them.
        known: The network's layers, without the input.

    Raises:
        InputError: The network has fewer layers.
    """
    if layers in ("all", "all_but_input"):
        return [INPUT, *known] if layers == "all" else list(known)
    if isinstance(layers, int):
        if layers > len(known):
            raise InputError(
                f"layers is {layers}, but the network has {len(known)} to count from the top"
            )
        return list(known[-layers:])
    return list(layers)


def check_layers(layers: object) -> None:
    """Refuse what :func:`chosen_layers` cannot take.

    Raises:
        InputError: Neither of the words, nor a positive number, nor a list of names; or ``"auto"``,
            which a run's settings alone can have.
    """
    if layers == AUTO:
        raise InputError(
            "layers 'auto' is chosen for the method 'activity' on other images than those that are"
            " explained: give statistics_data (shards) to a run, or in code"
            " layers=LayerChoice.estimate(classifier, batches).count"
        )
    number = isinstance(layers, int) and not isinstance(layers, bool) and layers >= 1
    names = (
        isinstance(layers, (list, tuple))
        and bool(layers)
        and all(isinstance(name, str) for name in layers)
    )
    if not (number or names or layers in ("all", "all_but_input")):
        raise InputError(
            f"layers is {layers!r}; it must be 'all', 'all_but_input', a number, or a list of "
            "layer names"
        )


def _parents(name: str) -> list[str]:
    """``"a.b.c"`` to ``["a", "a.b"]``."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]

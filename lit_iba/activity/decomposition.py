"""Activity and bias attributions of all layers from one forward and one backward pass, and what
they add up to.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 11 to 15.
Gradients are taken with respect to activations only, on a copy of the network's graph that computes
nothing in place; the network itself is not touched.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from lit_iba.activity.detached import Gates, gates_of
from lit_iba.activity.layers import INPUT, NetworkLayers, layout_of
from lit_iba.activity.operations import add_bias
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.folding import graph_module
from lit_iba.classifier.hooked import HookedNetwork, hooked
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.split import no_gradient
from lit_iba.classifier.tracing import works_in_place
from lit_iba.errors import InputError
from lit_iba.explainer import completeness_error

logger = logging.getLogger(__name__)
_told: weakref.WeakSet[FrozenClassifier] = weakref.WeakSet()


@dataclass(frozen=True)
class Term:
    """Attribution of one node: value times gradient, element by element.

    Args:
        product: (B, ...) as the node's output.
        layout: Where its positions are; None where it has none.
    """

    product: Tensor
    layout: Layout | None

    @property
    def total(self) -> Tensor:
        """(B,) sum over all elements: A in equation 14."""
        return self.product.flatten(1).sum(dim=1)

    @property
    def features(self) -> Tensor:
        """(B, C, h, w), one map per channel; a vector is one position."""
        if self.layout is not None:
            return self.layout.grid(self.product)
        return self.product.flatten(1)[:, :, None, None]

    @property
    def map(self) -> Tensor:
        """(B, h, w) sum over channels: a in equations 11 and 12."""
        return self.features.sum(dim=1)


@dataclass(frozen=True)
class Attributions:
    """What one pass gives.

    Args:
        score: (B,) logit of the target, f_c.
        activity: Terms h df_c/dh by layer.
        bias: Terms b df_c/db by node.

    Example:
        >>> from lit_iba.activity import Decomposition, NetworkLayers
        >>> decomposition = Decomposition(NetworkLayers(classifier), ["layer3"])
        >>> attributions = decomposition.attribute(images, targets)
        >>> attributions.score.shape, attributions.activity["layer3"].total.shape
        (torch.Size([2]), torch.Size([2]))
    """

    score: Tensor
    activity: dict[str, Term]
    bias: dict[str, Term]


class Decomposition:
    """Decomposes class scores at given layers.

    Args:
        layers: The network's layers.
        activity: Layers whose activity attributions are wanted, ``"input"`` among them.
        bias: Nodes whose bias attributions are wanted (see ``NetworkLayers.bias_nodes``).

    Example:
        >>> from lit_iba.activity import Decomposition, NetworkLayers
        >>> decomposition = Decomposition(NetworkLayers(classifier), ["input", "layer2"])
        >>> found = decomposition.attribute(images, targets)
        >>> found.score.allclose(classifier(images)[[0, 1], targets], atol=1e-5)
        True
        >>> found.activity["layer2"].map.shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self, layers: NetworkLayers, activity: Sequence[str], bias: Sequence[str] = ()
    ) -> None:
        self.activity, self.bias, self.classifier = list(activity), list(bias), layers.classifier
        self.gates: Gates = layers.gates
        wanted = {name: layers.node(name) for name in activity}
        biases = {name: layers.bias_nodes[name] for name in bias}
        self._run = _with_gradients(layers, wanted, biases)
        input_node = layers.network.input
        self._nodes: list[str | fx.Node] = [
            INPUT if node is input_node else node for node in (*wanted.values(), *biases.values())
        ]

    def attribute(self, images: Tensor, targets: Tensor) -> Attributions:
        """One forward and one backward pass.

        Args:
            images: Normalised images (B, 3, H, W); left as they are.
            targets: int64 (B,) classes.
        """
        with torch.enable_grad():
            # Copies, because what was made in inference mode could not be differentiated.
            with gates_of(self.gates):
                logits, activations, outputs, biases = self._run(images.detach().clone())
            score = _score(self.classifier, logits, targets)
            if not score.requires_grad:
                raise no_gradient(self.classifier.name)
            taken = [*activations, *outputs]
            gradients = (
                torch.autograd.grad(score.sum(), taken, materialize_grads=True) if taken else ()
            )
        products = [
            value.detach() * gradient
            for value, gradient in zip([*activations, *biases], gradients, strict=True)
        ]
        terms = [
            _term(self.classifier, name, node, product, images)
            for name, node, product in zip(
                [*self.activity, *self.bias], self._nodes, products, strict=True
            )
        ]
        split = len(self.activity)
        return Attributions(
            score.detach(),
            dict(zip(self.activity, terms[:split], strict=True)),
            dict(zip(self.bias, terms[split:], strict=True)),
        )


@dataclass(frozen=True)
class LayerSums:
    """Gross sums of all layers (equation 14), B images.

    Args:
        score: (B,) f_c.
        layers: ``"input"`` and the layers.
        activity: (B, layers) A^h of each.
        bias_above: (B, layers) sum of A^b over what acts above each.
        bias: A^b, (B,), by layer; above the last layer by operation (``"fc"``).
        error: (B, layers) relative error of equation 13; NaN where it does not apply.

    Example:
        >>> from lit_iba.activity.decomposition import layer_sums
        >>> sums = layer_sums(classifier, images, targets)
        >>> total = sums.activity + sums.bias_above  # equation 14: the score, whatever the layer
        >>> total.allclose(sums.score[:, None].expand_as(total), atol=1e-3)
        True
    """

    score: Tensor
    layers: list[str]
    activity: Tensor
    bias_above: Tensor
    bias: dict[str, Tensor]
    error: Tensor


def layer_sums(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    names: Sequence[str] | None = None,
    gates: Gates = "differentiated",
) -> LayerSums:
    """What the attributions of every layer add up to: equation 13 for all l.

    Args:
        classifier: The network.
        images: Normalised images (B, 3, H, W).
        targets: int64 (B,) classes.
        names: The network's layers; None finds them.
        gates: See :class:`NetworkLayers`.

    Raises:
        InputError: As of :class:`NetworkLayers`.
    """
    layers = NetworkLayers.of(classifier, names, gates)
    shown = [INPUT, *layers.names]
    found = Decomposition(layers, shown, list(layers.bias_nodes)).attribute(images, targets)
    return sums_of(layers, found)


def sums_of(layers: NetworkLayers, found: Attributions) -> LayerSums:
    """The sums of attributions that hold every bias."""
    score, nothing = found.score, torch.zeros_like(found.score)
    bias = {name: term.total for name, term in found.bias.items()}
    shown = list(found.activity)
    activity = torch.stack([found.activity[name].total for name in shown], dim=1)
    above = torch.stack(
        [sum((bias[b] for b in layers.biases_above(name)), nothing) for name in shown], dim=1
    )
    errors = [completeness_error(activity[:, i] + above[:, i], score) for i in range(len(shown))]
    undefined = torch.full_like(score, torch.nan)
    errors = [
        e if layers.is_complete(name) else undefined for name, e in zip(shown, errors, strict=True)
    ]
    by_layer = {
        owner: sum((bias[b] for b, whose in layers.owner.items() if whose == owner), nothing)
        for owner in layers.bias_layers()
    }
    return LayerSums(score, shown, activity, above, by_layer, torch.stack(errors, dim=1))


class HookedActivity:
    """Activity attributions of a network that cannot be traced; modules that run several times
    count where they ran last.
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        activity: Sequence[str],
        gates: Gates = "differentiated",
    ) -> None:
        check_literals(HookedActivity.__init__, locals())
        self.classifier, self.activity, self.gates = classifier, list(activity), gates
        network = classifier.cuttable
        assert isinstance(network, HookedNetwork)
        named = [name for name in activity if name != INPUT]
        self._modules = {name: network.module_at(name) for name in named if network.runs(name)}

    def attribute(self, images: Tensor, targets: Tensor) -> Attributions:
        """As :meth:`Decomposition.attribute`."""
        found: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor):
                raise InputError(
                    f"layer {name!r} of {self.classifier.name} gives a {type(output).__name__}, not"
                    " one tensor; choose a module inside it"
                )
            found[name] = _tracked(output)
            return found[name].clone()  # what comes next may work in place

        hooks: Any = [
            (module, lambda _m, _i, output, name=name: keep(name, output))
            for name, module in self._modules.items()
        ]
        with torch.enable_grad(), hooked(hooks):
            with gates_of(self.gates):
                logits = self.classifier(keep(INPUT, images.detach().clone()))
            score = _score(self.classifier, logits, targets)
            taken = [found[name] for name in self.activity]
            gradients = torch.autograd.grad(score.sum(), taken, materialize_grads=True)
        products = [
            value.detach() * gradient for value, gradient in zip(taken, gradients, strict=True)
        ]
        terms = [
            _term(self.classifier, name, name, product, images)
            for name, product in zip(self.activity, products, strict=True)
        ]
        return Attributions(score.detach(), dict(zip(self.activity, terms, strict=True)), {})


def _term(
    classifier: FrozenClassifier, name: str, layer: str | fx.Node, product: Tensor, images: Tensor
) -> Term:
    """The term of a layer, which must have a row for each image."""
    if len(product) != len(images):
        raise InputError(
            f"layer {name!r} of {classifier.name} has {len(product)} rows for {len(images)} "
            "images, so that its activities and biases are not those of one image; choose other "
            "layers for 'activity', or a method that treats the network as a whole, such as "
            "integrated_gradients"
        )
    return Term(
        product, layout_of(classifier, layer, product, (images.shape[-2], images.shape[-1]))
    )


def _score(classifier: FrozenClassifier, outputs: Tensor, targets: Tensor) -> Tensor:
    """f_c, (B,): the target's logit, for classes."""
    return classifier.objective.score(outputs, targets.to(outputs.device).clone())


def say_if_inexact(classifier: FrozenClassifier, inexact: Sequence[str]) -> None:
    """Warn, once a classifier, that activity and bias attributions do not add up to the class
    score.
    """
    if inexact and classifier not in _told:
        _told.add(classifier)
        logger.warning(
            "%s is not piecewise linear (%s): completeness does not hold, activity and bias "
            "attributions do not add up to the class score (gates: detached may help)",
            classifier.name,
            ", ".join(inexact),
        )


def _tracked(value: Tensor) -> Tensor:
    """The tensor itself where gradients reach it already; else a leaf, so that no graph is kept
    below the lowest layer.
    """
    return value if value.requires_grad else value.detach().requires_grad_()


def _with_gradients(
    layers: NetworkLayers, activity: dict[str, fx.Node], bias: dict[str, fx.Node]
) -> nn.Module:
    """From images to (logits, activations, outputs of the bias nodes, effective biases)."""
    network, graph = layers.network, fx.Graph()
    wanted = {*activity.values(), *bias.values()}
    differentiated = {above for node in wanted for above in network.descendants(node)}
    env: dict[fx.Node, fx.Node] = {}
    tracked: dict[fx.Node, fx.Node] = {}
    effective: dict[fx.Node, fx.Node] = {}

    def copied(given: Any) -> Any:
        return env[given] if isinstance(given, fx.Node) else given

    for node in network.nodes:
        if node.op == "output":
            continue
        overwritten = [n for n in node.all_input_nodes if works_in_place(network.model, node, n)]
        for source in overwritten:
            if source in differentiated:
                env[source] = graph.call_method("clone", (env[source],))
        env[node] = graph.node_copy(node, copied)
        if node in wanted:
            if node in bias.values():
                constant = add_bias(
                    graph, network.model, node, layers.flowing, copied, env[node], layers.gates
                )
                if constant is None:
                    raise InputError(
                        f"{layers.classifier.name} has no bias at {node.name!r}; choose another "
                        "layer"
                    )
                effective[node] = constant
            env[node] = tracked[node] = graph.call_function(_tracked, (env[node],))
        for source in overwritten:
            env[source] = env[
                node
            ]  # what reads the source from here on sees what was written into it
    outputs = (
        env[network.logits_node()],
        [tracked[node] for node in activity.values()],
        [tracked[node] for node in bias.values()],
        [effective[node] for node in bias.values()],
    )
    graph.output(outputs)
    module = graph_module(network.model, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module

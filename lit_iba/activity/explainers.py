"""Explainers made of activity and bias attributions: single layers, aggregates over layers,
FullGrad, the top layer.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 8 to 16;
FullGrad also as Srinivas and Fleuret, "Full-Gradient Representation for Neural Network
Visualization" (NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.activity.decomposition import (
    Attributions,
    Decomposition,
    HookedActivity,
    say_if_inexact,
    sums_of,
)
from lit_iba.activity.layers import INPUT, NetworkLayers, check_layers, chosen_layers
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, completeness_error, made_again

Size = tuple[int, int]
Upsampling = Literal["bilinear", "nearest"]
_UPSAMPLING: dict[str, tuple[str, bool | None]] = {
    "bilinear": ("bilinear", False),
    "nearest": ("nearest-exact", None),
}


def unit_range(maps: Tensor, eps: float = 0.0) -> Tensor:
    """Each of (B, ...) to [0, 1] by its own minimum and maximum (equation 10); a constant becomes
    0.

    Args:
        maps: Non-negative values.
        eps: Added to the denominator, 1e-6 in FullGrad's published code.
    """
    flat = maps.flatten(1)
    low = flat.amin(dim=1).view(-1, *[1] * (maps.ndim - 1))
    width = flat.amax(dim=1).view_as(low) - low + eps
    return (maps - low) / torch.where(width > 0, width, torch.ones_like(width))


def saliency(maps: Tensor, size: Size, upsampling: str = "bilinear") -> Tensor:
    """Psi of equation 9 for one map a layer: |a|, rescaled to [0, 1], upsampled; (B, h, w) to (B,
    H, W).
    """
    return _upsample(unit_range(maps.abs()), size, upsampling)


def signed_map(maps: Tensor, size: Size, upsampling: str = "bilinear") -> Tensor:
    """Upsampling of an attribution map, divided by the ratio of areas, so that its sum stays A
    (equation 14).
    """
    height, width = maps.shape[-2:]
    return _upsample(maps, size, upsampling) * (height * width / (size[0] * size[1]))


class LayerAggregate(Explainer):
    """What the explainers over layers share: settings, batches, and the mean over layers."""

    network_layers: NetworkLayers

    def __init__(
        self,
        classifier: FrozenClassifier,
        layers: str | int | list[str],
        signed: bool,
        forward_batch_size: int,
        seed: int,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_layers(layers)
        check_literals(LayerAggregate.__init__, locals())
        self.upsampling = upsampling
        if forward_batch_size < 1:
            raise InputError(f"forward_batch_size is {forward_batch_size}; it must be at least 1")
        self.signed, self.forward_batch_size = signed, forward_batch_size
        self.unit = "logit" if signed else "1"

    def __reduce__(self) -> tuple[Any, ...]:
        return made_again, (type(self), *(self._given or ((), {})))

    def trace(self, network_layers: list[str] | None) -> NetworkLayers:
        """Find the network's layers, and say once if completeness does not hold."""
        self.network_layers = NetworkLayers(self.classifier, network_layers)
        say_if_inexact(self.classifier, self.network_layers.inexact)
        return self.network_layers

    def aggregate(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Mean over layers of maps (B, h, w) at the image's size (equation 16; a mean has the order
        of the paper's sum).
        """
        change = signed_map if self.signed else saliency
        return torch.stack([change(m, size, self.upsampling) for m in maps]).mean(dim=0)

    def parts(self, images: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets, a forward pass each."""
        size = self.forward_batch_size
        return zip(images.split(size), targets.split(size), strict=True)


class ActivityAttribution(LayerAggregate):
    """Activity attributions, sum over channels of h df_c/dh (equation 11), of one layer or
    aggregated over several.

    The paper's best: ``layers="all_but_input"`` for VGG-16, ``layers=2`` for ResNet-50. Any layer
    of the network can be named. A network that cannot be traced is treated with hooks and needs a
    list of module names. ``completeness`` is that of equation 13 at the lowest of the layers, for
    networks and layers where it holds.

    Args:
        classifier: The network to explain.
        layers: ``"all"`` (with the input), ``"all_but_input"``, how many from the top, or a list of
            names.
        signed: Whether to average attribution maps, in the unit of the class score, instead of
            saliency maps in [0, 1].
        upsampling: ``"bilinear"`` (equation 9), or ``"nearest"``: blocks, our reading of figure
            12's "linear" resize.
        network_layers: The network's layers, where the ones found are not wanted (see
            ``NetworkLayers``).
        forward_batch_size: Images a forward and backward pass.
        seed: Unused; nothing here is random.

    Raises:
        InputError: Settings out of range, an unknown layer, or one without positions.

    Example:
        >>> from lit_iba.activity import ActivityAttribution
        >>> explainer = ActivityAttribution(classifier, layers=["layer2", "layer3"])
        >>> heatmap = explainer.attribute(images, targets)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> bool((heatmap.completeness < 1e-3).all())  # equation 13 holds
        True
    """

    name: ClassVar[str] = "activity"
    label: ClassVar[str] = "Activity attributions"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        layers: str | int | list[str] = "all_but_input",
        signed: bool = False,
        upsampling: Upsampling = "bilinear",
        network_layers: list[str] | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, layers, signed, forward_batch_size, seed, upsampling)
        self._pass: Decomposition | HookedActivity
        self._above: list[str] | None = None
        if isinstance(classifier.cuttable, HookedNetwork) and isinstance(layers, list):
            say_if_inexact(classifier, ["it cannot be traced"])
            self.layers, self._pass = layers, HookedActivity(classifier, layers)
            return
        known = self.trace(network_layers)
        self.layers = known.in_order(chosen_layers(layers, known.names))
        if known.is_complete(self.layers[0]):
            self._above = known.biases_above(self.layers[0])
        self._pass = Decomposition(known, self.layers, self._above or [])

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Aggregated maps."""
        size = (images.shape[-2], images.shape[-1])
        values, undrawn, errors = [], [], []
        for part, classes in self.parts(images, targets):
            found = self._pass.attribute(part, classes)
            maps = [_positions(found, layer, self.classifier) for layer in self.layers]
            values.append(self.aggregate(maps, size))
            outside = [
                found.activity[layer].total - m.sum(dim=(1, 2))
                for layer, m in zip(self.layers, maps, strict=True)
            ]
            undrawn.append(torch.stack(outside).mean(dim=0))  # that of class tokens
            if self._above is not None:
                total = found.activity[self.layers[0]].total + sum(
                    term.total for term in found.bias.values()
                )
                errors.append(completeness_error(total, found.score))
        return Attribution(
            torch.cat(values),
            torch.cat(undrawn) if self.signed else None,
            torch.cat(errors) if errors else None,
        )


class TopLayer(ActivityAttribution):
    """Saliency of the top layer's activity attributions alone, the paper's reference beside its
    aggregates (figure 7).

    Args:
        classifier: The network to explain.
        network_layers: The network's layers, where the ones found are not wanted.
        forward_batch_size: Images a forward and backward pass.
        seed: Unused; nothing here is random.

    Example:
        >>> from lit_iba.activity import TopLayer
        >>> TopLayer(classifier).attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "top_layer"
    label: ClassVar[str] = "Top layer"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        network_layers: list[str] | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(
            classifier,
            layers=1,
            network_layers=network_layers,
            forward_batch_size=forward_batch_size,
            seed=seed,
        )


class BiasAttribution(LayerAggregate):
    """Bias attributions, sum over channels of b df_c/db (equation 12), of one layer or aggregated
    over several.

    A layer's biases are those between the layer below and its output; in a block they may have
    several sizes, and are summed at that of the last one (areas are pooled, so that sums stay).
    ``"all"`` and ``"all_but_input"`` are the same here, the input having no bias, and a number
    counts layers that have one. Biases above the last layer with positions are not drawn.

    Args:
        classifier: The network to explain.
        layers: ``"all"``, how many from the top, or a list of names out of the network's layers.
        signed: Whether to average attribution maps, in the unit of the class score, instead of
            saliency maps in [0, 1].
        upsampling: ``"bilinear"`` (equation 9), or ``"nearest"``: blocks, our reading of figure
            12's "linear" resize.
        network_layers: The network's layers, where the ones found are not wanted (see
            ``NetworkLayers``).
        forward_batch_size: Images a forward and backward pass.
        seed: Unused; nothing here is random.

    Raises:
        InputError: Settings out of range, or a layer that is none of the network's or has no bias.

    Example:
        >>> from lit_iba.activity import BiasAttribution
        >>> BiasAttribution(classifier).attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "bias_attribution"
    label: ClassVar[str] = "Bias attributions"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        layers: str | int | list[str] = "all_but_input",
        signed: bool = False,
        upsampling: Upsampling = "bilinear",
        network_layers: list[str] | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, layers, signed, forward_batch_size, seed, upsampling)
        owner = self.trace(network_layers).owner
        known = [name for name in self.network_layers.names if name in owner.values()]
        if not known:
            raise InputError(
                f"{classifier.name} has no biases below its last layer; use 'activity' instead"
            )
        chosen = [name for name in chosen_layers(layers, known) if name != INPUT]
        self.layers = [known_name(name, known, self.network_layers) for name in chosen]
        self._pass = Decomposition(
            self.network_layers, [], [b for b, layer in owner.items() if layer in self.layers]
        )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Aggregated maps."""
        size = (images.shape[-2], images.shape[-1])
        values = []
        for part, classes in self.parts(images, targets):
            found = self._pass.attribute(part, classes)
            maps = [layer_bias_map(found, self.network_layers, layer) for layer in self.layers]
            values.append(self.aggregate(maps, size))
        return Attribution(torch.cat(values))


class FullGrad(LayerAggregate):
    """FullGrad: the input's attribution and all bias attributions, aggregated; ``completeness`` is
    that of the full gradient.

    Args:
        classifier: The network to explain.
        per: ``"feature_map"`` (Srinivas & Fleuret): Psi of every feature map, summed over features
            and bias operations; or ``"layer"`` (Grabska-Barwińska, section 2.4): features are
            summed with their signs first, then one Psi a layer.
        rescale: Over what a feature map's minimum and maximum are taken: ``"layer"``, all feature
            maps of an operation, as in the published code, or ``"feature"``, each alone, as in the
            text. Of no meaning for ``per="layer"``.
        network_layers: The network's layers, for ``per="layer"``, where the ones found are not
            wanted.
        forward_batch_size: Images a forward and backward pass.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting out of range, or a network without biases.

    Example:
        >>> from lit_iba.activity import FullGrad
        >>> heatmap = FullGrad(classifier).attribute(images, targets)
        >>> bool((heatmap.completeness < 1e-3).all())  # input and biases add up to the logit
        True
    """

    name: ClassVar[str] = "fullgrad"
    label: ClassVar[str] = "FullGrad"

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        per: Literal["feature_map", "layer"] = "feature_map",
        rescale: Literal["layer", "feature"] = "layer",
        network_layers: list[str] | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        check_literals(FullGrad.__init__, locals())
        super().__init__(classifier, "all", False, forward_batch_size, seed)
        if not self.trace(network_layers).bias_nodes:
            raise InputError(
                f"{classifier.name} has no biases, which FullGrad is made of; use 'activity'"
                " instead"
            )
        self.per, self.rescale = per, rescale
        self._pass = Decomposition(
            self.network_layers, [INPUT], list(self.network_layers.bias_nodes)
        )

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Psi of the input's term plus Psi of the bias terms (equation 8)."""
        size = (images.shape[-2], images.shape[-1])
        values, errors = [], []
        for part, classes in self.parts(images, targets):
            found = self._pass.attribute(part, classes)
            errors.append(sums_of(self.network_layers, found).error[:, 0])
            values.append(
                self._of_layers(found, size)
                if self.per == "layer"
                else self._of_features(found, size)
            )
        exact = self.network_layers.is_complete(INPUT)
        return Attribution(torch.cat(values), completeness=torch.cat(errors) if exact else None)

    def _of_layers(self, found: Attributions, size: Size) -> Tensor:
        layers = self.network_layers
        owners = [name for name in layers.names if name in layers.owner.values()]
        maps = [
            found.activity[INPUT].map,
            *(layer_bias_map(found, layers, name) for name in owners),
        ]
        return torch.stack([saliency(m, size) for m in maps]).sum(dim=0)

    def _of_features(self, found: Attributions, size: Size) -> Tensor:
        total = torch.zeros(
            (len(found.score), *size), dtype=found.score.dtype, device=found.score.device
        )
        terms = [found.activity[INPUT], *found.bias.values()]
        for features in (term.features.abs() for term in terms if term.layout is not None):
            batch = features if self.rescale == "layer" else features.flatten(0, 1)
            scaled = unit_range(batch, eps=1e-6).view_as(features)
            # Interpolation is linear, so that the sum over feature maps may come first.
            total += _upsample(scaled.sum(dim=1), size, "aligned")
        return total


def layer_bias_map(found: Attributions, layers: NetworkLayers, layer: str) -> Tensor:
    """Bias attributions of a layer (B, h, w), at the size of its last bias's; those of other sizes
    are pooled or spread.
    """
    maps = [
        found.bias[b].map for b, owner in layers.owner.items() if owner == layer and b in found.bias
    ]
    size = maps[-1].shape[-2:]
    total = torch.zeros_like(maps[-1])
    for m in maps:
        area = m.shape[-2] * m.shape[-1] / (size[0] * size[1])
        total += (
            m
            if m.shape[-2:] == size
            else F.interpolate(m[:, None], size=size, mode="area")[:, 0] * area
        )
    return total


def known_name(layer: str, known: Sequence[str], layers: NetworkLayers) -> str:
    """The name under which a layer is known, whatever the user calls it.

    Raises:
        InputError: It is none of the known layers.
    """
    found = next((name for name in known if layers.node(name) is layers.node(layer)), None)
    if found is None:
        raise InputError(
            f"{layer!r} is not among the layers of {layers.classifier.name} that have a bias"
            f" ({', '.join(known)}); choose from these, or define other ones with network_layers"
        )
    return found


def _positions(found: Attributions, layer: str, classifier: FrozenClassifier) -> Tensor:
    term = found.activity[layer]
    if term.layout is None:
        raise InputError(
            f"layer {layer!r} of {classifier.name} has no positions; choose one whose output is a"
            " feature map"
        )
    return term.map


def _upsample(maps: Tensor, size: Size, kind: str = "bilinear") -> Tensor:
    mode, align_corners = {**_UPSAMPLING, "aligned": ("bilinear", True)}[kind]
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=align_corners)[:, 0]

"""Explainers made of bias attributions: single layers, aggregates over layers, FullGrad.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 8, 12 and
16; FullGrad also as Srinivas and Fleuret, "Full-Gradient Representation for Neural Network
Visualization" (NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.activity.decomposition import Attributions, Decomposition, sums_of
from lit_iba.activity.detached import Gates
from lit_iba.activity.explainers import LayerAggregate
from lit_iba.activity.layers import INPUT, NetworkLayers, chosen_layers
from lit_iba.activity.maps import Size, Upsampling, saliency, unit_range, upsampled
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution


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
        keep_sum: Whether signed maps keep their sums when they are upsampled. Small maps are then
            small numbers, and large layers outweigh them in an aggregate; False is the paper's
            (supplement, equation 10).
        network_layers: The network's layers, where the ones found are not wanted (see
            ``NetworkLayers``).
        gates: As of :class:`ActivityAttribution`.
        forward_batch_size: Images per forward and backward pass.
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
        keep_sum: bool = True,
        network_layers: list[str] | None = None,
        gates: Gates = "differentiated",
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        check_literals(BiasAttribution.__init__, locals())
        super().__init__(classifier, layers, signed, forward_batch_size, seed, upsampling, keep_sum)
        owner = self.trace(network_layers, gates).owner
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
        gates: As of :class:`ActivityAttribution`.
        forward_batch_size: Images per forward and backward pass.
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
        gates: Gates = "differentiated",
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        check_literals(FullGrad.__init__, locals())
        super().__init__(classifier, "all", False, forward_batch_size, seed)
        if not self.trace(network_layers, gates).bias_nodes:
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
            total += upsampled(scaled.sum(dim=1), size, "aligned")
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

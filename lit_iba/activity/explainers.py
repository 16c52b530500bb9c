"""Explainers made of activity attributions: single layers, aggregates over layers, the top layer.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", equations 9 to 16.
What is made of biases stands in ``bias_explainers.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.activity.decomposition import (
    Decomposition,
    HookedActivity,
    say_if_inexact,
)
from lit_iba.activity.detached import Gates
from lit_iba.activity.layer_choice import chosen_once
from lit_iba.activity.layers import AUTO, NetworkLayers, check_layers, chosen_layers
from lit_iba.activity.maps import Size, Upsampling, positions, saliency, signed_map
from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.errors import InputError
from lit_iba.explainer import (
    Attribution,
    Explainer,
    Surroundings,
    completeness_error,
    made_again,
)


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
        keep_sum: bool = True,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_layers(layers)
        check_literals(LayerAggregate.__init__, locals())
        self.upsampling, self.keep_sum = upsampling, keep_sum
        if forward_batch_size < 1:
            raise InputError(f"forward_batch_size is {forward_batch_size}; it must be at least 1")
        self.signed, self.forward_batch_size = signed, forward_batch_size
        self.unit = "logit" if signed and keep_sum else "1"

    def __reduce__(self) -> tuple[Any, ...]:
        again = (type(self), *(self._given or ((), {})))
        return made_again, again, {"smooth": self.smooth}

    def trace(
        self, network_layers: list[str] | None, gates: Gates = "differentiated"
    ) -> NetworkLayers:
        """Find the network's layers, and say once if completeness does not hold."""
        self.network_layers = NetworkLayers.of(self.classifier, network_layers, gates)
        say_if_inexact(self.classifier, self.network_layers.inexact)
        return self.network_layers

    def aggregate(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Mean over layers of maps (B, h, w) at the image's size (equation 16; a mean has the order
        of the paper's sum).
        """
        if self.signed:
            whole = [signed_map(m, size, self.upsampling, self.keep_sum) for m in maps]
        else:
            whole = [saliency(m, size, self.upsampling) for m in maps]
        return torch.stack(whole).mean(dim=0)

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
            names. In the settings of a run also ``"auto"``: as many from the top as are best on 64
            of the images that statistics are measured on (see :class:`LayerChoice`).
        signed: Whether to average attribution maps, in the unit of the class score, instead of
            saliency maps in [0, 1].
        upsampling: ``"bilinear"`` (equation 9), or ``"nearest"``: blocks, our reading of figure
            12's "linear" resize.
        keep_sum: Whether signed maps keep their sums when they are upsampled. Small maps are then
            small numbers, and large layers outweigh them in an aggregate; False is the paper's
            (supplement, equation 10).
        network_layers: The network's layers, where the ones found are not wanted (see
            ``NetworkLayers``).
        gates: ``"differentiated"``, the paper's plain gradient, or ``"detached"``: gates of GELU
            and SiLU, scales of layer norms and weights of attention are constants, so that
            completeness holds for transformers and ConvNeXts as well (see ``detached.py``).
        forward_batch_size: Images per forward and backward pass.
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
    config_only: ClassVar[tuple[str, ...] | None] = ()

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
        check_literals(ActivityAttribution.__init__, locals())
        super().__init__(classifier, layers, signed, forward_batch_size, seed, upsampling, keep_sum)
        self._pass: Decomposition | HookedActivity
        self._above: list[str] | None = None
        if isinstance(classifier.cuttable, HookedNetwork) and isinstance(layers, list):
            say_if_inexact(classifier, ["it cannot be traced"])
            self.layers, self._pass = layers, HookedActivity(classifier, layers, gates)
            return
        known = self.trace(network_layers, gates)
        self.layers = known.in_order(chosen_layers(layers, known.names))
        if known.is_complete(self.layers[0]):
            self._above = known.biases_above(self.layers[0])
        self._pass = Decomposition(known, self.layers, self._above or [])

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> ActivityAttribution:
        """Build from a config: ``layers: auto`` is chosen once, on the run's other images."""
        if settings.get("layers") == AUTO and surroundings is not None:
            if settings.get("signed"):
                raise InputError(
                    "layers 'auto' is chosen by unsigned maps; leave signed out, or name the layers"
                )
            names = ("network_layers", "upsampling", "gates")
            choice = chosen_once(
                classifier, {k: settings[k] for k in names if k in settings}, surroundings
            )
            settings = settings | {"layers": choice.count}
        return cls(classifier, **settings)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Aggregated maps."""
        size = (images.shape[-2], images.shape[-1])
        values, undrawn, errors = [], [], []
        for part, classes in self.parts(images, targets):
            found = self._pass.attribute(part, classes)
            maps = [positions(found, layer, self.classifier) for layer in self.layers]
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
            torch.cat(undrawn) if self.signed and self.keep_sum else None,
            torch.cat(errors) if errors else None,
        )


class TopLayer(ActivityAttribution):
    """Saliency of the top layer's activity attributions alone, the paper's reference beside its
    aggregates (figure 7).

    Args:
        classifier: The network to explain.
        network_layers: The network's layers, where the ones found are not wanted.
        forward_batch_size: Images per forward and backward pass.
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

"""Which of a network's modules give feature maps, and which of these the whole picture passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.classifier.frozen import FrozenClassifier
from lit_iba.classifier.hooked import hooked
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.own_copy import floating_parameter
from lit_iba.classifier.proof import probe_images, same_logits
from lit_iba.classifier.traced import TracedNetwork
from lit_iba.errors import InputError

POOLING = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # they may keep VGG's 7x7, but add nothing to it


def feature_maps(classifier: FrozenClassifier) -> dict[str, Layout]:
    """The layout of every module's output that has more than one position, in the order in which
    the modules finish; one that runs twice counts where it runs last.

    Example:
        >>> from lit_iba.classifier import feature_maps
        >>> list(feature_maps(classifier))[-1]
        'layer3'
    """
    images = classifier.empty_images()
    shapes: dict[str, torch.Size] = {}

    def record(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(images):
            shapes.pop(name, None)
            shapes[name] = output.shape

    known = set(classifier.layers())  # a layer that the traced graph does not have cannot be tapped
    hooks: Any = [
        (module, lambda _m, _i, output, name=name: record(name, output))
        for name, module in classifier.model.named_modules()
        if name in known
    ]
    with torch.no_grad(), hooked(hooks):
        classifier(images)
    found: dict[str, Layout] = {}
    for name, shape in shapes.items():  # afterwards: to find a layout is to run the network
        try:
            layout = classifier.layout_of(name, shape, (images.shape[-2], images.shape[-1]))
        except InputError:  # no grid: what tokens have to do with each other, say
            continue
        if layout.height * layout.width > 1:
            found[name] = layout
    return found


def last_feature_map(classifier: FrozenClassifier) -> str:
    """The outermost module, latest in the forward pass, that the whole picture passes and whose
    positions the logits depend on: ``layer4`` of a ResNet, the last block but one of a ViT that
    reads its class token.

    Raises:
        InputError: There is none.

    Example:
        >>> from lit_iba.classifier import last_feature_map
        >>> last_feature_map(classifier)
        'layer3'
    """
    modules = dict(classifier.model.named_modules())
    # Outer modules finish after the inner ones, so the last is the outermost of the last stage.
    for name in reversed(feature_maps(classifier)):
        if isinstance(modules[name], POOLING) or not _takes_all(classifier, name):
            continue
        if positions_matter(classifier, name):
            return name
    raise InputError(
        f"{classifier.name} has no layer with positions that the whole picture passes; name a "
        "layer, or use another method"
    )


def positions_matter(classifier: FrozenClassifier, layer: str) -> bool:
    """Whether the logits depend on a layer's positions, and not on its prefix tokens alone."""
    split = classifier.split(layer)
    with torch.inference_mode(False), torch.enable_grad():
        images = _probe(classifier)
        with torch.no_grad():
            r, carried = split.head(images)
        r = r.clone().requires_grad_()
        logits = split.tail(r, carried)
        (gradient,) = torch.autograd.grad((logits * _weights(logits)).sum(), r)
    layout = classifier.layout_of(layer, r.shape, (images.shape[-2], images.shape[-1]))
    return bool((layout.grid(gradient) != 0).any())


def _takes_all(classifier: FrozenClassifier, layer: str) -> bool:
    """Whether nothing goes past a layer: it lies in the residual stream and not in a branch."""
    network = classifier.cuttable
    if isinstance(network, TracedNetwork):
        return network.node_of(layer) in network.cuts()
    try:
        split, images = classifier.split(layer), _probe(classifier)
    except InputError:
        return False
    with torch.no_grad():
        r = split.head(images)[0]
        _, others = split.head(images.flip(0))
        return same_logits(split.tail(r, others), classifier(images))


def _probe(classifier: FrozenClassifier) -> Tensor:
    side = classifier.preprocessing.crop
    return probe_images((side, side), floating_parameter(classifier.model))


def _weights(logits: Tensor) -> Tensor:
    """One per class, all different: the sum of all logits alone may not depend on anything."""
    return torch.linspace(1, 2, logits.shape[1], device=logits.device, dtype=logits.dtype)

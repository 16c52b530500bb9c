"""Which of a network's modules give feature maps, and which of these the whole picture passes."""

from __future__ import annotations

import math
from collections.abc import Collection
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

# VGG-16: InputIBA, section 4.1, and IBA, table 2; ResNet-50: IBA, table 2, whose place ResNet-18
# has as well.
PAPER_LAYERS = {"vgg16": "features.17", "resnet18": "layer2", "resnet50": "layer2"}
PIXELS_A_POSITION = 8  # along each axis, at these layers
POOLING = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # they may keep VGG's 7x7, but add nothing to it


def feature_maps(
    classifier: FrozenClassifier, among: Collection[str] | None = None
) -> dict[str, Layout]:
    """The layout of every module's output that has more than one position, in the order in which
    the modules finish; one that runs twice counts where it runs last.

    Args:
        classifier: The network.
        among: The modules to look at; by default all.

    Example:
        >>> from lit_iba.classifier import feature_maps
        >>> list(feature_maps(classifier))[-1]
        'layer3'
    """
    # Layouts afterwards: to find one may be to run the network.
    found = {
        name: _layout(classifier, name, shape) for name, shape in _shapes(classifier, among).items()
    }
    return {name: layout for name, layout in found.items() if layout is not None}


def _shapes(
    classifier: FrozenClassifier, among: Collection[str] | None = None
) -> dict[str, torch.Size]:
    """The shape of every module's output of three or four axes, in the order in which they
    finish.
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
        if name in known and (among is None or name in among)
    ]
    with torch.no_grad(), hooked(hooks):
        classifier(images)
    return shapes


def _layout(classifier: FrozenClassifier, name: str, shape: torch.Size) -> Layout | None:
    """Where the positions of such an output are; None where it has not more than one."""
    try:
        layout = classifier.layout_of(name, shape, classifier.preprocessing.size)
    except InputError:  # no grid: what tokens have to do with each other, say
        return None
    return layout if layout.height * layout.width > 1 else None


def last_feature_map(classifier: FrozenClassifier) -> str:
    """The outermost module, latest in the forward pass, that the whole picture passes and whose
    positions the logits depend on: ``layer4`` of a ResNet, the last block but one of a ViT that
    reads its class token. Where outputs have positions themselves, as in segmentation, it is the
    last one of the fewest positions that is not the logits yet.

    Raises:
        InputError: There is none.

    Example:
        >>> from lit_iba.classifier import last_feature_map
        >>> last_feature_map(classifier)
        'layer3'
    """
    modules = dict(classifier.model.named_modules())
    # Outer modules finish after the inner ones, so the last is the outermost of the last stage.
    shapes = _shapes(classifier)
    names = list(shapes)[::-1]
    if len(classifier.output_shape) == 3:
        with_positions = [name for name in names if _layout(classifier, name, shapes[name])]
        names = _coarsest_first(classifier, with_positions)
    for name in names:
        if isinstance(modules[name], POOLING) or not _takes_all(classifier, name):
            continue
        if _layout(classifier, name, shapes[name]) and positions_matter(classifier, name):
            return name
    raise InputError(
        f"{classifier.name} has no layer with positions that the whole picture passes; name a "
        "layer, or use another method"
    )


def _has_logits(classifier: FrozenClassifier, name: str) -> bool:
    """Whether a layer's channels are as many as the classes of outputs with positions: logits that
    are enlarged yet.
    """
    if len(classifier.output_shape) != 3:
        return False
    shape = torch.Size([1, *classifier.feature_shape(name)])
    grid = classifier.layout(name).grid(torch.empty(shape, device="meta"))
    return grid.shape[1] == classifier.output_shape[0]


def _coarsest_first(classifier: FrozenClassifier, names: list[str]) -> list[str]:
    left = [n for n in names if _takes_all(classifier, n) and not _has_logits(classifier, n)]
    layouts = {name: classifier.layout(name) for name in left}
    return sorted(left, key=lambda name: layouts[name].height * layouts[name].width)


def passed_feature_maps(classifier: FrozenClassifier) -> dict[str, Layout]:
    """Of :func:`feature_maps`, those that the whole picture passes: where a bottleneck can stand.

    Example:
        >>> from lit_iba.classifier import passed_feature_maps
        >>> "layer3" in passed_feature_maps(classifier)
        True
    """
    known = set(classifier.layers())
    names = [
        name
        for name, module in classifier.model.named_modules()
        if name in known and not isinstance(module, POOLING) and _takes_all(classifier, name)
    ]
    found = feature_maps(classifier, names)
    return {name: layout for name, layout in found.items() if not _has_logits(classifier, name)}


def usual_layer(classifier: FrozenClassifier, layer: str | None = None) -> str:
    """Where a bottleneck goes: the layer given, or the papers' for the networks that they explain,
    or else the one that is most like theirs.

    That is a layer that the whole picture passes, with about 28 x 28 positions for a picture of 224
    pixels, the last of that size that is not the logits yet; in a network whose positions are as
    many throughout, such as a ViT, the one in the middle.

    Raises:
        InputError: There is none with positions that the logits depend on.

    Example:
        >>> from lit_iba.classifier import usual_layer
        >>> usual_layer(classifier)
        'layer3'
    """
    if layer is not None or classifier.name in PAPER_LAYERS:
        return layer or PAPER_LAYERS[classifier.name]
    sizes = {
        name: math.sqrt(layout.height * layout.width)
        for name, layout in passed_feature_maps(classifier).items()
    }
    if sizes:
        wanted = math.sqrt(math.prod(classifier.preprocessing.size)) / PIXELS_A_POSITION
        off = {name: abs(math.log(size / wanted)) for name, size in sizes.items()}
        nearest = [name for name in sizes if off[name] < min(off.values()) + 1e-6]
        start = len(nearest) // 2
        if max(sizes.values()) > min(sizes.values()):
            # Behind a block rather than in it: of names in names, the outermost.
            depth = min(name.count(".") for name in nearest)
            nearest = [name for name in nearest if name.count(".") == depth]
            start = len(nearest) - 1
        for name in reversed(nearest[: start + 1]):
            if positions_matter(classifier, name):
                return name
    raise InputError(
        f"{classifier.name} has no layer for a bottleneck, with positions that the whole picture"
        " passes; name a layer"
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
    size, like = classifier.preprocessing.size, floating_parameter(classifier.model)
    return probe_images(size, like, classifier.channels)


def _weights(logits: Tensor) -> Tensor:
    """One per output, all different: the sum of all logits alone may not depend on anything."""
    one = logits[0]
    return torch.linspace(1, 2, one.numel(), device=one.device, dtype=one.dtype).view(one.shape)

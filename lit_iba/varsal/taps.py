"""Which of a classifier's layers the readout encoder reads: the last stage of each resolution, for
any network.

A convolutional network has a handful of resolutions, and the last features of each are the most
processed ones that still lie on that grid; feature pyramids take the same (Lin et al., "Feature
Pyramid Networks", CVPR 2017, section 3). Not from VarSal's paper, whose encoder reads no features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.layout import Layout, layouts_of
from lit_iba.errors import InputError

SHRINKS = 1.5  # a layer whose side is not so many times smaller than the tap before it is no resolution of its own


def grids(taps: dict[str, Tensor], image_size: tuple[int, int]) -> dict[str, Tensor]:
    """Outputs of layers for images of this (H, W), each as (B, C, h, w); 1 x 1 where they have no
    positions.
    """
    layouts = layouts_of(taps, image_size)
    return {name: layouts[name].grid(tap) for name, tap in taps.items()}


def check_taps(classifier: FrozenClassifier, taps: Sequence[str] | None) -> dict[str, int]:
    """The taps with the channels of each, from the finest to the deepest.

    Args:
        classifier: The network to read.
        taps: Names of layers; None takes :func:`last_of_each_resolution`.

    Raises:
        InputError: No such layer, one named twice, or the finest of them has no positions.
    """
    names = last_of_each_resolution(classifier) if taps is None else list(taps)
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"taps are {names}; name one or more different layers (see classifier.layers())"
        )
    images = _probe(classifier)
    with torch.no_grad():
        found = grids(classifier.taps(names)(images), (images.shape[-2], images.shape[-1]))
    # A stable sort: of several layers of one resolution, the one that is named first counts as the
    # finer one.
    names.sort(key=lambda name: -found[name].shape[-2] * found[name].shape[-1])
    if found[names[0]].shape[-2:] == (1, 1):
        raise InputError(f"none of the layers {names} has positions; tap one before the pooling")
    return {name: found[name].shape[1] for name in names}


def last_of_each_resolution(classifier: FrozenClassifier) -> list[str]:
    """Of each resolution, in order of execution, the last of its outermost modules: a stage rather
    than a layer within one.

    In ResNet-50 that is layer1 and not layer2.0.conv1, which runs later on the same grid but has
    squeezed the channels.

    Raises:
        InputError: No module has an output with positions.
    """
    at: dict[tuple[int, int], list[str]] = {}
    smallest: tuple[int, int] | None = None
    for name, (height, width) in _resolutions(classifier).items():
        # Classifiers only shrink; what is larger than before is no map of the picture (attention
        # between tokens, say).
        if smallest is None or (height <= smallest[0] and width <= smallest[1]):
            smallest = (height, width)
            at.setdefault(smallest, []).append(name)
    chosen: list[tuple[int, str]] = []
    for (height, _), names in reversed(at.items()):
        if not chosen or height >= SHRINKS * chosen[-1][0]:
            chosen.append((height, min(reversed(names), key=lambda name: name.count("."))))
    if not chosen:
        raise InputError(f"{classifier.name} has no layer whose output has positions; name taps")
    return [name for _, name in reversed(chosen)]


def _resolutions(classifier: FrozenClassifier) -> dict[str, tuple[int, int]]:
    """(h, w) of every module's output that has positions, in the order in which they finish."""
    images = _probe(classifier)
    found: dict[str, tuple[int, int]] = {}
    handles: list[Any] = []

    def record(name: str, output: Any) -> None:
        if (
            not isinstance(output, Tensor)
            or output.ndim not in (3, 4)
            or len(output) != len(images)
        ):
            return
        try:
            layout = Layout.of(output.shape, (images.shape[-2], images.shape[-1]))
        except InputError:  # tokens that are no grid
            return
        if layout.height * layout.width > 1:
            found.pop(name, None)  # a module that runs twice counts where it runs last
            found[name] = (layout.height, layout.width)

    known = set(classifier.layers())  # a layer that the traced graph does not have cannot be tapped
    try:
        for name, module in classifier.model.named_modules():
            if name in known:
                handles.append(
                    module.register_forward_hook(lambda _m, _i, o, name=name: record(name, o))
                )
        with torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _probe(classifier: FrozenClassifier) -> Tensor:
    """Two empty images of the classifier's size: a batch of one could be taken for a missing axis."""
    side = classifier.preprocessing.crop
    return torch.zeros(2, 3, side, side, device=classifier.device)

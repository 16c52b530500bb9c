"""Which of a classifier's layers a feature pyramid reads: the last stage of each resolution, for
any network.

A convolutional network has a handful of resolutions, and the last features of each are the most
processed ones that still lie on that grid; feature pyramids take the same (Lin et al., "Feature
Pyramid Networks", CVPR 2017, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.stages import feature_maps
from lit_iba.errors import InputError

# A layer counts as a resolution of its own where its side is so many times smaller than the
# side of the tap before it.
SHRINKS = 1.5


def grids(
    classifier: FrozenClassifier, taps: dict[str, Tensor], image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Outputs of layers for images of this (H, W), each as (B, C, h, w); 1 x 1 where they have no
    positions.
    """
    layouts = classifier.layouts_of(taps, image_size)
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
    images = classifier.empty_images()
    with torch.no_grad():
        found = grids(
            classifier, classifier.taps(names)(images), (images.shape[-2], images.shape[-1])
        )
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
    for name, layout in feature_maps(classifier).items():
        height, width = layout.height, layout.width
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

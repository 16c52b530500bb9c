"""How alike the maps of a layer are: activity and bias attributions of one network, and activity
attributions of two networks, by layer.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", supplement D,
figure 8: the network against itself with its biases set to zero, by brute force or by decay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.activity.bias_explainers import layer_bias_map
from lit_iba.activity.decomposition import Decomposition
from lit_iba.activity.layers import NetworkLayers
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError

logger = logging.getLogger(__name__)
_TOGETHER = 8  # images whose attributions of all layers are held at once
_QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}
BIAS = "bias"  # what the activity attributions of a network are compared with, beside networks


def map_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation over positions.

    Args:
        first: (B, h, w).
        second: The same.

    Returns:
        (B,) in float64; NaN where one of the two is constant, as a map of one position is.

    Example:
        >>> import torch
        >>> from lit_iba.activity.similarity import map_correlation
        >>> maps = torch.rand(2, 4, 4)
        >>> map_correlation(maps, 3 - 2 * maps).round(decimals=6)
        tensor([-1., -1.], dtype=torch.float64)
    """
    x, y = (m.double().flatten(1) for m in (first, second))
    least = [1e-7 * m.norm(dim=1) for m in (x, y)]  # what rounding leaves of a constant
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    sizes = [
        torch.where(m.norm(dim=1) > small, m.norm(dim=1), torch.nan)
        for m, small in zip((x, y), least, strict=True)
    ]
    return (x * y).sum(dim=1) / (sizes[0] * sizes[1])


def layer_similarity(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    others: Mapping[str, FrozenClassifier],
) -> dict[str, dict[str, Tensor]]:
    """Correlation of each layer's activity attribution with others, image by image.

    Args:
        classifier: The network.
        images: Normalised images (B, C, H, W).
        targets: int64 (B,) classes.
        others: Networks of the same layers, by name, such as those without biases.

    Returns:
        By ``"bias"`` (the layer's own bias attribution, at the activity's size) and the names of
        ``others``, by layer from the image on: (B,), see :func:`map_correlation`. ``"bias"`` has
        the layers with biases only.

    Raises:
        InputError: As of :class:`NetworkLayers`.

    Example:
        >>> from lit_iba.activity import without_biases
        >>> from lit_iba.activity.similarity import layer_similarity
        >>> brute = {"without_biases": without_biases(classifier)}
        >>> found = layer_similarity(classifier, images, targets, brute)
        >>> list(found), found["without_biases"]["layer3"].shape
        (['bias', 'without_biases'], torch.Size([2]))
    """
    known = NetworkLayers.of(classifier)
    own = Decomposition(known, known.names, list(known.bias_nodes)).attribute(images, targets)
    found: dict[str, dict[str, Tensor]] = {BIAS: {}}
    for name in known.names:
        if name in known.owner.values():
            activity, bias = own.activity[name].map, layer_bias_map(own, known, name)
            if bias.shape != activity.shape:  # a layer ends with pooling, say
                bias = F.interpolate(bias[:, None], size=activity.shape[-2:], mode="area")[:, 0]
            found[BIAS][name] = map_correlation(activity, bias)
    for title, other in others.items():
        theirs = Decomposition(NetworkLayers.of(other), known.names).attribute(images, targets)
        found[title] = {
            name: map_correlation(own.activity[name].map, theirs.activity[name].map)
            for name in known.names
        }
    return found


@torch.enable_grad()
def similarity_spread(
    classifier: FrozenClassifier, pictures: Tensor, others: Mapping[str, FrozenClassifier]
) -> dict[str, Any] | None:
    """Figure 8 in numbers: :func:`layer_similarity` for the predicted classes, over images.

    Args:
        classifier: The network.
        pictures: uint8 (B, C, H, W).
        others: As of :func:`layer_similarity`.

    Returns:
        ``layers``, and by what the maps are compared with ``low``, ``median`` and ``high``, the
        10th, 50th and 90th percentiles of each layer, None where there is no correlation; None for
        a network whose layers cannot be told.
    """
    try:
        layers = NetworkLayers.of(classifier).names
    except InputError as error:
        logger.warning("no correlations of %s: %s", classifier.name, error)
        return None
    rows: dict[str, dict[str, list[Tensor]]] = {}
    for batch in pictures.split(_TOGETHER):
        images = classifier.images(batch)
        found = layer_similarity(classifier, images, classifier.targets(images), others)
        for which, by_layer in found.items():
            for layer, values in by_layer.items():
                rows.setdefault(which, {}).setdefault(layer, []).append(values.cpu())

    def quantile(values: list[Tensor], share: float) -> float | None:
        numbers = torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
        numbers = numbers[numbers.isfinite()]
        return float(numbers.quantile(share)) if len(numbers) else None

    return {"layers": layers} | {
        which: {
            part: [quantile(by_layer.get(layer, []), share) for layer in layers]
            for part, share in _QUANTILES.items()
        }
        for which, by_layer in rows.items()
    }

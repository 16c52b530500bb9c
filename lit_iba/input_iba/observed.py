"""What InputIBA in one pass reads of the frozen classifier: features, and gradients of the target's
score beside them.

Features alone say what is in the picture; the gradients, what of it the score goes by. With them
the map belongs to the target that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.split import differentiable
from lit_iba.training.taps import grids
from lit_iba.training.trained_explainer import single

LARGEST = 10.0  # of the root mean square; single gradients are larger by far


@dataclass(frozen=True)
class Observed:
    """What the frozen classifier gives for a batch of images.

    Args:
        outputs: Its outputs (B, ...); None where the pass ends with the last tap.
        taps: The taps' outputs, as they are.
        read: What the network reads of them, each (B, C, h, w).
        picture: What it reads at the pixels, (B, C, H, W).
    """

    outputs: Tensor | None
    taps: dict[str, Tensor]
    read: dict[str, Tensor]
    picture: Tensor


def observe_features(
    classifier: FrozenClassifier, trunk: Callable[[Tensor], dict[str, Tensor]], images: Tensor
) -> Observed:
    """One pass of images (B, C, H, W) through ``trunk``, which ends with the last tap."""
    taps = trunk(images)
    return Observed(None, taps, _read(classifier, taps, images), single(images))


def observe_gradients(
    classifier: FrozenClassifier,
    names: Sequence[str],
    images: Tensor,
    targets: Tensor | None = None,
) -> Observed:
    """One pass of images (B, C, H, W) forward and one back.

    Args:
        classifier: The network.
        names: Of the taps.
        images: Normalised.
        targets: Whose score the gradients are of; by default what is predicted.

    Returns:
        Of every tap the features, and beside them features times gradient; of the picture, beside
        it the logarithm of 1 + |gradient|.

    Raises:
        InputError: The outputs have no gradient.
    """
    objective = classifier.objective
    with torch.inference_mode(False), torch.enable_grad():  # Lightning validates in inference mode
        inputs = images.detach().clone().requires_grad_()
        outputs, taps = classifier.folded_with_taps(names)(inputs)
        differentiable(outputs, inputs, classifier.name)
        asked = objective.predicted(outputs.detach()) if targets is None else targets.clone()
        score = objective.score(outputs, asked).sum()
        found = torch.autograd.grad(score, [inputs, *taps.values()], materialize_grads=True)
    slopes = _read(classifier, dict(zip(taps, found[1:], strict=True)), images)
    taps = {name: tap.detach() for name, tap in taps.items()}
    read = _read(classifier, taps, images)
    with torch.autocast(images.device.type, enabled=False):  # squares of small numbers
        for name, tap in read.items():
            parts = _even(tap.float() * slopes[name].float())
            read[name] = torch.cat([tap.float(), parts], dim=1)
        picture = torch.cat([single(images), _even(single(found[0])).abs().log1p()], dim=1)
    return Observed(outputs.detach(), taps, read, picture)


def _read(
    classifier: FrozenClassifier, taps: dict[str, Tensor], images: Tensor
) -> dict[str, Tensor]:
    """Taps as the network reads them, each (B, C, h, w)."""
    read = grids(classifier, taps, (images.shape[-2], images.shape[-1]))
    return {name: single(tap) for name, tap in read.items()}


def _even(values: Tensor) -> Tensor:
    """Divided by the root mean square of each image's, and cut off at ``LARGEST``."""
    size = values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return (values / size.clamp_min(torch.finfo(values.dtype).tiny)).clamp(-LARGEST, LARGEST)

"""What a network must keep to be explained, tried on two images before anything is believed: logits
that belong to their own image, the same every time, whatever a cut or a trace makes of the network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_iba.classifier.outputs import described
from lit_iba.classifier.own_copy import floating_parameter
from lit_iba.errors import InputError
from lit_iba.objectives import Objective

logger = logging.getLogger(__name__)

# Share of the largest logit by which two ways of computing the same may differ.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
TOLERANCE_OF_HALF = 5e-2  # float16 and bfloat16, and TensorFloat-32 on a GPU


@dataclass(frozen=True)
class Proof:
    """What two images have shown of a network.

    Args:
        logits: What it gives for them, (2, K) or whatever shape its objective asks for.
        classes: How many classes a target can name.
        overwrites: Whether it writes into the images that it is given.
    """

    logits: Tensor
    classes: int
    overwrites: bool


def probe_images(size: tuple[int, int], like: Tensor, channels: int) -> Tensor:
    """Two images (2, C, H, W), always the same, that differ in brightness and contrast.

    Args:
        size: (H, W) in pixels.
        like: A tensor whose device and dtype they get.
        channels: C.
    """
    noise = torch.randn(
        2, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    )
    noise[1] = noise[1] * 2 + 1
    return noise.to(device=like.device, dtype=like.dtype)


def same_logits(found: Tensor, wanted: Tensor) -> bool:
    """Whether two ways of computing logits (B, ...) agree, to the rounding of their precision.

    Infinite ones, of classes that a network leaves out, must be the same.
    """
    if found.shape != wanted.shape:
        return False
    tolerance = TOLERANCE.get(wanted.dtype, TOLERANCE_OF_HALF)
    if wanted.device.type == "cuda" and wanted.dtype == torch.float32:
        tolerance = TOLERANCE_OF_HALF if torch.backends.cudnn.allow_tf32 else tolerance
    gap = torch.where(found == wanted, 0.0, (found - wanted).abs()).amax()
    size = torch.where(wanted.isfinite(), wanted.abs(), 0.0).amax()
    return bool(gap <= tolerance * size)


def _check_logits(outputs: Tensor, name: str, objective: Objective) -> None:
    """Outputs that have been through the softmax or sigmoid already, which the objective takes."""
    bounded = bool(((outputs >= 0) & (outputs <= 1)).all())
    if not bounded:
        return
    if objective.link == "softmax" and bool(((outputs.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise InputError(
            f"{name} gives probabilities, which add up to 1, where logits are needed; leave out "
            "its last softmax, or put a logarithm behind it"
        )
    if objective.link == "sigmoid":
        logger.warning(
            "all outputs of %s lie between 0 and 1, as probabilities do; this objective takes "
            "logits, so leave out a sigmoid at its end, if it has one",
            name,
        )


@torch.no_grad()
def proven(
    model: nn.Module, name: str, size: tuple[int, int], channels: int, objective: Objective
) -> Proof:
    """Try a network on two images of (H, W), together and alone.

    Raises:
        InputError: It cannot take them, gives NaN or what the objective cannot be asked of, or
            what it gives for an image depends on the other one or on chance.
    """
    images = probe_images(size, floating_parameter(model), channels)
    given = images.clone()
    try:
        logits = model(given)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{name} cannot take images {tuple(images.shape)} "
            f"({reason[0] if reason else type(error).__name__}); say its size, and by mean and std "
            "its channels, with preprocessing=Preprocessing(crop=...), or wrap it"
        ) from error
    if not isinstance(logits, Tensor):
        raise InputError(f"{name} must map images to a tensor, but gives {described(logits)}")
    if logits.ndim == 0 or len(logits) != 2:
        raise InputError(
            f"{name} must map images (B, {channels}, H, W) to outputs (B, ...), but gives "
            f"{tuple(logits.shape)} for 2 images; wrap it"
        )
    classes = objective.check_outputs(logits.shape, name)
    if not logits.is_floating_point():
        raise InputError(
            f"{name} gives {logits.dtype}, which has no gradient, where logits (B, K) are needed; "
            "leave out what turns its logits into a decision"
        )
    if bool(logits.isnan().any()):
        raise InputError(
            f"{name} gives NaN for ordinary images, so that no map of it means anything; its "
            "weights are damaged or its training diverged: load others"
        )
    _check_logits(logits, name, objective)
    if torch.equal(logits[0], logits[1]):
        logger.warning(
            "%s gives the same for two different images, so that there is nothing to explain; load "
            "its trained weights",
            name,
        )
    alone = model(images[:1].clone())
    if alone.shape != logits[:1].shape:
        raise InputError(
            f"{name} gives {tuple(alone.shape)} for one image and {tuple(logits.shape)} for two; "
            "name the axes that it squeezes or flattens, so that the images keep theirs"
        )
    if not same_logits(alone, logits[:1]):
        if not same_logits(model(images[:1].clone()), alone):
            raise InputError(
                f"{name} gives other logits each time for the same image; switch off what it draws "
                "at random (dropout that asks neither for training nor for eval, say)"
            )
        if any("quantized" in type(module).__module__ for module in model.modules()):
            raise InputError(
                f"{name} is quantised while it runs, by a scale of each batch, and has no "
                "gradient; give the network that it was made of"
            )
        raise InputError(
            f"{name} gives other logits for an image when another one is beside it, so that no map "
            "belongs to one image; give its batch norms running statistics "
            "(track_running_stats=True) and load them"
        )
    return Proof(logits, classes, not torch.equal(given, images))


@torch.no_grad()
def takes_channels_last(model: nn.Module, images: Tensor, wanted: Tensor) -> bool:
    """Whether a network gives the same for images (B, C, H, W) whose channels lie side by side in
    memory; one that flattens with ``view`` does not.
    """
    try:
        found = model(images.clone(memory_format=torch.channels_last))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return same_logits(found, wanted)

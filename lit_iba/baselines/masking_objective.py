"""What a masking network is trained for: a small smooth mask that keeps the class, and whose
complement loses it.

Dabkowski and Gal, "Real Time Image Saliency for Black Box Classifiers" (NIPS 2017), equation 6;
``preset="reference"`` is the form of the authors' code. Everything here is per image, so that a
gradient does not depend on the rest of the batch.

An image x is mixed with an alternative A that shows nothing: Phi(x, M) = x M + A (1 - M) is *kept*,
Phi(x, 1 - M) is *removed*. Some images ask for the mask of a *fake* class, which they do not show:
there is nothing to find, so the two change roles, and what is removed must still show the image's
own class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.errors import InputError
from lit_iba.perturbation import gaussian_blur
from lit_iba.randomness import normal

BLUR = (
    11.0,
    2.5,
)  # standard deviation in pixels of a 224-pixel picture, and where its kernel ends: 55 taps there
COLOUR, COLOUR_NOISE = (
    0.33,
    0.11,
)  # half range of the plain colour, standard deviation of its noise; of normalised images


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights and form of the objective.

    Args:
        terms: ``"likelihood"``: -log p of the class where it must be seen, p**power where it must
            not (the paper); ``"margin"``: hinges on the logit's lead over the best other class (the
            authors' code).
        area: Weight of the mean of (mask + area_offset) ** area_power.
        area_power: See ``area``; below 1, small values cost relatively more, which makes masks
            sharp.
        area_offset: See ``area``; it keeps the gradient at zero finite.
        smoothness: Weight of the sum of squared differences between neighbours, on the decoder's
            own grid.
        border: Weight, within the smoothness, of the sum of the border's squares.
        preserver: Weight of the term of the image that must show the class.
        destroyer: Weight of the term of the image that must not.
        destroyer_power: Exponent of p where the class must not be seen; of ``"likelihood"`` only.
        lead: Wanted lead of the class where it must be seen, in logits; of ``"margin"`` only.
        destroyer_lag: Wanted lag behind the best other class where the image's own class was
            removed; of ``"margin"`` only.
        fake_probability: Share of images that ask for a fake class.
        image_noise: Standard deviation of noise on the image.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> from lit_iba.baselines import ObjectiveSettings
        >>> ObjectiveSettings(area=5.0).terms
        'likelihood'
    """

    terms: Literal["likelihood", "margin"] = "likelihood"
    area: float = 10.0
    area_power: float = 1.0
    area_offset: float = 0.0
    smoothness: float = 1e-3
    border: float = 0.0
    preserver: float = 1.0
    destroyer: float = 5.0
    destroyer_power: float = 0.3
    lead: float = 1.0
    destroyer_lag: float = 5.0
    fake_probability: float = 0.3
    image_noise: float = 0.0

    def __post_init__(self) -> None:
        check_literals(self)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value < math.inf
            ):
                raise InputError(f"{field.name} is {value!r}; it must be a number of at least 0")
        if self.fake_probability >= 1:
            raise InputError(
                f"fake_probability is {self.fake_probability}; some images must show their class:"
                " below 1"
            )


PRESETS: dict[str, ObjectiveSettings] = {
    "default": ObjectiveSettings(),
    "reference": ObjectiveSettings(
        terms="margin",
        area=8.0,
        area_power=0.3,
        area_offset=0.0005,
        smoothness=0.005 / 2,
        border=0.3,
        preserver=0.3,
        destroyer=1.0,
        image_noise=0.03,
    ),
}


@dataclass(frozen=True)
class Draws:
    """What is random in an image's loss, drawn from the image's own generator.

    Args:
        classes: Class whose mask is asked for, int64 (B,).
        real: Whether that is the image's own class, bool (B,).
        images: The images, with noise where the settings want it, (B, C, H, W).
        alternatives: What takes the place of what a mask leaves out, (B, C, H, W).
    """

    classes: Tensor
    real: Tensor
    images: Tensor
    alternatives: Tensor


def draw(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    settings: ObjectiveSettings,
    generators: list[torch.Generator],
) -> Draws:
    """Draw the class to ask for and the alternative image of every image."""
    count = 3 + images.shape[1]  # the last ones are a colour
    uniform = torch.stack(
        [
            torch.rand(count, generator=g, device=images.device, dtype=torch.float32)
            for g in generators
        ]
    )
    noise = normal(generators, 2, *images.shape[1:])
    classes, real = ask(labels, num_classes, settings.fake_probability, uniform[:, :2])
    noisy = images + settings.image_noise * noise[:, 0]
    colour = COLOUR * (2 * uniform[:, 3:, None, None] - 1) + COLOUR_NOISE * noise[:, 1]
    blurred = (uniform[:, 2] < 0.5)[:, None, None, None]
    return Draws(classes, real, noisy, torch.where(blurred, strong_blur(noisy), colour))


def ask(
    labels: Tensor, num_classes: int, fake_probability: float, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """The class each image is asked for (B,), and whether it is its own (B,); ``uniform`` (B, 2) in
    [0, 1) decides.
    """
    real = uniform[:, 0] >= fake_probability
    # In double precision, or the largest float32 below 1 would round up to the image's own class.
    step = 1 + (uniform[:, 1].double() * (num_classes - 1)).long()
    return torch.where(real, labels, (labels + step) % num_classes), real


def strong_blur(images: Tensor) -> Tensor:
    """Images (B, C, H, W) blurred until nothing can be told: sigma 11 for 224 pixels, in proportion
    for others.
    """
    sigma = BLUR[0] * min(images.shape[-2:]) / 224
    return gaussian_blur(images, sigma, "reflect", radius=max(int(BLUR[1] * sigma), 1))


def mix(images: Tensor, alternatives: Tensor, masks: Tensor) -> Tensor:
    """Phi: the images where the masks (B, H, W) are 1, the alternatives where they are 0."""
    return torch.lerp(alternatives, images, masks[:, None])


def area(masks: Tensor, power: float = 1.0, offset: float = 0.0) -> Tensor:
    """Mean of (mask + offset) ** power over the positions: (B, h, w) to (B,)."""
    return ((masks + offset) ** power).mean(dim=(1, 2))


def roughness(masks: Tensor, border: float = 0.0) -> Tensor:
    """Sum of squared differences between neighbours, plus ``border`` times that of the border's
    squares: (B,).

    The border's four sides are summed each for itself, so that a corner counts twice.
    """
    inside = masks.diff(dim=1).square().sum(dim=(1, 2)) + masks.diff(dim=2).square().sum(dim=(1, 2))
    squares = (
        masks.square()
    )  # the sides one by one: a list of them as index would be sent to the device
    rows = squares[:, 0].sum(dim=1) + squares[:, -1].sum(dim=1)
    columns = squares[:, :, 0].sum(dim=1) + squares[:, :, -1].sum(dim=1)
    return inside + border * (rows + columns)


def preserver(logits: Tensor, labels: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Small where the classifier sees the class: logits (B, K), labels (B,) to (B,)."""
    if settings.terms == "likelihood":
        return F.cross_entropy(logits, labels, reduction="none")
    return F.relu(settings.lead - lead_of(logits, labels))


def destroyer(logits: Tensor, labels: Tensor, settings: ObjectiveSettings, lag: Tensor) -> Tensor:
    """Small where it does not; ``lag`` (B,) is how far the class must fall behind in the
    ``"margin"`` form.
    """
    if settings.terms == "likelihood":
        return torch.exp(
            -settings.destroyer_power * F.cross_entropy(logits, labels, reduction="none")
        )
    return F.relu(lead_of(logits, labels) + lag)


def lead_of(logits: Tensor, labels: Tensor) -> Tensor:
    """A class's logit minus the largest other one: (B, K), (B,) to (B,)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def mask_losses(
    masks: Tensor,
    kept: Tensor,
    removed: Tensor,
    labels: Tensor,
    real: Tensor,
    settings: ObjectiveSettings,
) -> dict[str, Tensor]:
    """The objective's four terms, each (B,) and as it enters the sum.

    Args:
        masks: (B, h, w), on the decoder's grid.
        kept: Logits of Phi(x, M), (B, K).
        removed: Logits of Phi(x, 1 - M), (B, K).
        labels: The images' own classes (B,), also where a fake one was asked for.
        real: Whether the mask is that of the image's own class (B,).
        settings: Form and weights.

    Returns:
        ``area``, ``smoothness``, ``preserver`` and ``destroyer``.
    """
    s = settings
    seen, unseen = (
        torch.where(real[:, None], kept, removed),
        torch.where(real[:, None], removed, kept),
    )
    # In the authors' code the weights belong to the images kept and removed, whatever is asked of
    # them.
    own = real if s.terms == "margin" else torch.ones_like(real)
    seen_weight, unseen_weight = (
        torch.where(own, s.preserver, s.destroyer),
        torch.where(own, s.destroyer, s.preserver),
    )
    return {
        "area": s.area * area(masks, s.area_power, s.area_offset),
        "smoothness": s.smoothness * roughness(masks, s.border),
        "preserver": seen_weight * preserver(seen, labels, s),
        "destroyer": (
            unseen_weight * destroyer(unseen, labels, s, torch.where(real, s.destroyer_lag, s.lead))
        ),
    }

"""DeepSHAP: DeepLIFT's rescale rule against a background (Lundberg and Lee 2017; Shrikumar et al.
2017).

Complete by construction: the attributions of an image sum to f(image) minus the mean of f over the
background. The libraries lose that where hooked modules are adjacent and where the windows of a max
pooling overlap; here every step has its own exact multiplier.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_iba.baselines.canonical import canonical
from lit_iba.baselines.propagation import (
    MAX_POOLINGS,
    ForwardPass,
    Step,
    quotient,
    score_gradient,
    to_positions,
    transpose,
    winners,
)
from lit_iba.baselines.steps import Ceiling
from lit_iba.checks import check_counts, check_images
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, Surroundings, completeness_error
from lit_iba.objectives.base import repeat_targets


def multiplier(module: nn.ReLU | Ceiling, x: Tensor, reference: Tensor) -> Tensor:
    """(f(x) - f(reference)) / (x - reference) of a ReLU or a limit, in [0, 1]; the derivative at x
    where the two are equal.
    """
    is_open = module.is_open(x) if isinstance(module, Ceiling) else x > 0
    gained = module(x) - module(reference)
    return torch.where(x == reference, is_open.to(x.dtype), quotient(gained, x - reference))


def max_pool_multipliers(
    module: nn.Module, x: Tensor, reference: Tensor, arriving: Tensor
) -> Tensor:
    """What arrives at a max pooling's outputs, for its inputs, so that sum m (x - reference) is
    kept.

    A window's gain over the larger of the two maxima goes to the winner of x, what is left to the
    winner of the reference: there x - reference has the gain's sign and is no smaller, so that the
    quotient is at most 1. Windows that overlap add up.
    """
    (y, at), (y_reference, at_reference) = winners(module, x), winners(module, reference)
    larger = torch.maximum(y, y_reference)
    gained = to_positions(arriving * (larger - y_reference), at, x.shape)
    lost = to_positions(arriving * (y - larger), at_reference, x.shape)
    return quotient(gained + lost, x - reference)


class DeepSHAP(Explainer):
    """Attribution to each pixel of f(image) - mean f(background), summed over channels, f being the
    target's logit.

    Args:
        classifier: The network to explain.
        background: Normalised images (M, 3, H, W) to compare with; by default the mean colour,
            which is zero. From a config, ``background_images: M`` takes them from
            ``statistics_data``.
        forward_batch_size: Pairs of an image and a background image that go through the network
            together.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting is wrong, or the network has an operation without a rule, which is
            named.

    Example:
        >>> from lit_iba.baselines import DeepSHAP
        >>> heatmap = DeepSHAP(classifier).attribute(images, targets)
        >>> bool((heatmap.completeness < 0.001).all())  # the map adds up to what the logit gains
        True
    """

    name: ClassVar[str] = "deep_shap"
    label: ClassVar[str] = "DeepSHAP"
    config_only: ClassVar[tuple[str, ...] | None] = ("background_images",)
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        background: Tensor | None = None,
        forward_batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(forward_batch_size=forward_batch_size)
        self.background = (
            None if background is None else check_images(background, classifier.channels)
        )
        if background is not None and not len(background):
            raise InputError(
                "the background has no images; give at least one, or none at all for the mean"
                " colour"
            )
        self.forward_batch_size = forward_batch_size
        self.network = canonical(classifier)

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> DeepSHAP:
        """Build from a config, where ``background_images`` says how many images of the statistics'
        data are compared with.
        """
        settings = dict(settings)
        if (count := settings.pop("background_images", None)) is not None:
            if surroundings is None:
                raise InputError(
                    "background_images needs data to take them from; give the images as background"
                )
            check_counts(background_images=count)
            settings["background"] = surroundings.images(classifier, count)
        return cls(classifier, **settings)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Mean over the background of multiplier * (image - background image), (B, H, W)."""
        background = (
            images.new_zeros(1, *images.shape[1:])
            if self.background is None
            else self.background.to(images)
        )
        if background.shape[1:] != images.shape[1:]:
            raise InputError(
                f"the background's images are {tuple(background.shape[2:])}, but those to explain"
                f" {tuple(images.shape[2:])}; give them the same size"
            )
        network, objective = self.network.to(images), self.classifier.objective
        values, promised = torch.zeros_like(images), images.new_zeros(len(images))
        for at in torch.arange(len(images), device=images.device).split(self.forward_batch_size):
            observed = ForwardPass(network, images[at])
            promised[at] += objective.score(observed.logits, targets[at])
            for some in background.split(max(1, self.forward_batch_size // len(at))):
                reference = ForwardPass(network, some)
                asked = repeat_targets(targets[at], len(some))
                others = reference.logits.repeat_interleave(len(at), dim=0)  # pair after pair
                start = score_gradient(objective, others, asked)
                back = observed.back(start, partial(_rescale, reference=reference, count=len(at)))
                multipliers = back.unflatten(
                    0, (len(some), len(at))
                )  # (background, images, 3, H, W)
                differences = images[at] - some[:, None]
                values[at] += (multipliers * differences).sum(dim=0) / len(background)
                promised[at] -= objective.score(others, asked).view(len(some), -1).sum(dim=0) / len(
                    background
                )
        total = values.sum(dim=1)
        return Attribution(total, completeness=completeness_error(total.sum(dim=(1, 2)), promised))


def _rescale(
    step: Step, arriving: Tensor, reference: ForwardPass, count: int
) -> tuple[Tensor, ...]:
    """DeepLIFT's rule for all pairs at once: row r * count + i is image i against background image
    r.
    """
    others = reference.steps[step.name].inputs
    pairs = len(arriving) // count
    inputs = [x if pairs == 1 else x.repeat(pairs, *[1] * (x.ndim - 1)) for x in step.inputs]
    if isinstance(step.module, nn.ReLU | Ceiling):
        reference_inputs = others[0].repeat_interleave(count, dim=0)
        return (arriving * multiplier(step.module, inputs[0], reference_inputs),)
    if isinstance(step.module, MAX_POOLINGS):
        return (
            max_pool_multipliers(
                step.module, inputs[0], others[0].repeat_interleave(count, dim=0), arriving
            ),
        )
    return transpose(step.module, inputs, arriving)

"""What a bottleneck has settled on for a batch of images: the mask lambda, its information, and Z
as often as wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_iba.classifier.layout import Layout
from lit_iba.classifier.split import Carried
from lit_iba.iba.noise import NoiseModel
from lit_iba.randomness import normal


@dataclass(frozen=True)
class MaskedFeature:
    """A feature map R behind a bottleneck.

    Args:
        r: Feature map (B, *R).
        keep: lambda (B, *R), in [0, 1).
        drop: 1 - lambda.
        nats: Information per element of R (B, *R).
        noise: What replaces R where lambda is small.
        layout: Where R's positions are.
        carried: What crosses the cut beside R.
        tail: From Z and carried values to logits (B, K).
        clamp: Whether Z is clamped to be non-negative.
        beta: Weight of the information with which each mask was optimised, (B,); None where none
            was.
    """

    r: Tensor
    keep: Tensor
    drop: Tensor
    nats: Tensor
    noise: NoiseModel
    layout: Layout
    carried: Carried
    tail: Callable[[Tensor, Carried], Tensor]
    clamp: bool = False
    beta: Tensor | None = None

    @torch.no_grad()
    def logits(self, generators: list[torch.Generator]) -> Tensor:
        """Logits (B, K) of one draw of Z = lambda R + (1 - lambda) eps; ``generators[i]`` belongs
        to image i.
        """
        unit_noise = normal(generators, *self.r.shape[1:]).to(self.r.dtype)
        z = self.noise.restrict(self.r, self.keep, self.drop, unit_noise)
        return self.tail(z.clamp_min(0) if self.clamp else z, self.carried)


@runtime_checkable
class MasksFeatures(Protocol):
    """An explainer with a bottleneck behind a layer."""

    def masked_feature(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> MaskedFeature:
        """The bottleneck's state for checked images (B, 3, H, W) and targets (B,)."""
        ...

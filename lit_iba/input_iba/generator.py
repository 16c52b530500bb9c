"""The prior of the input bottleneck: a mask and noise on the input that give the features the
distribution of Z*.

Zhang et al., "Fine-Grained Neural Network Explanation by Identifying Input Features with Predictive
Information" (NeurIPS 2021), section 3.3: Z_G = lambda_G I + (1 - lambda_G) eps_G, eps_G ~ N(mu_G,
sigma_G^2), fitted so that f(Z_G) is distributed as Z* = lambda* R + (1 - lambda*) eps. Every image
has its own parameters and its own critic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_iba.classifier.layout import Layout
from lit_iba.explainer import OnStep
from lit_iba.heatmap import resize_keeping_total
from lit_iba.iba.bottleneck import NATS_PER_BIT, bits_per_position, mask_from_logits, mix
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.input_iba.critic import (
    LINEAR,
    Critic,
    CriticDesign,
    Scorer,
    clip_weights,
    critic_loss,
    gradient_penalty,
    published_design,
)
from lit_iba.input_iba.settings import (
    CriticStage,
    InputIBASettings,
    LatentStage,
    PriorStage,
)
from lit_iba.randomness import normal_copies

GROUPS, GROUP_MEAN, GROUP_STD = (
    10,
    2.0,
    5.0,
)  # of z_star_noise = "uniform_groups": means in [-2, 2], scales in [0, 5]
# prior_start = "capped_bits": lambda_G up to 0.95, for where it is 1 nothing moves it and no bits
# are needed
LARGEST_START = 3.0


@dataclass(frozen=True)
class InputPrior:
    """The generator's parameters for a batch of images.

    Args:
        logits: Of lambda_G, (B, 3, H, W).
        mean: mu_G (B, 3, 1, 1).
        std: sigma_G (B, 3, 1, 1); its sign does not matter.
        smoothing_sigma: Standard deviation of the blur of lambda_G, in pixels.

    Example:
        >>> import torch
        >>> from lit_iba.input_iba import InputPrior
        >>> zero = torch.zeros(2, 3, 1, 1)
        >>> prior = InputPrior(torch.zeros(2, 3, 64, 64), zero, zero + 1)
        >>> keep, drop = prior.masks()
        >>> float(keep.mean()), float(drop.mean())
        (0.5, 0.5)
        >>> prior.sample(images, torch.randn(4, 2, 3, 64, 64)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    logits: Tensor
    mean: Tensor
    std: Tensor
    smoothing_sigma: float = 0.0

    def masks(self) -> tuple[Tensor, Tensor]:
        """lambda_G and 1 - lambda_G, (B, 3, H, W)."""
        return mask_from_logits(
            self.logits, self.smoothing_sigma, Layout("BCHW", *self.logits.shape[-2:])
        )

    def sample(self, images: Tensor, unit_noise: Tensor) -> Tensor:
        """Z_G of images (..., B, 3, H, W), one for each unit noise of that shape."""
        return mix(images, *self.masks(), self.mean, self.std, unit_noise)


def starting_logits(
    masked: MaskedFeature, shape: torch.Size, kind: Literal["capped_bits", "bits"]
) -> Tensor:
    """Logits of lambda_G (B, C, H, W) from the information in the features.

    Args:
        masked: The feature bottleneck's result.
        shape: Of an image, (C, H, W).
        kind: ``"capped_bits"`` or ``"bits"``, see :class:`PriorStage`.
    """
    bits = bits_per_position(masked.nats / NATS_PER_BIT, masked.layout)[0]
    maps = resize_keeping_total(bits, (shape[1], shape[2]))[:, None]
    maps = maps.expand(-1, shape[0], -1, -1).clone()
    return maps if kind == "bits" else maps.clamp_max(LARGEST_START)


def uniform(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Numbers uniform in [0, 1), (*shape, B), each image's from its own generator."""
    return torch.stack(
        [torch.rand(shape, generator=g, device=g.device, dtype=torch.float32) for g in generators],
        dim=-1,
    )


class LatentBottleneck:
    """Draws from P(Z*).

    Args:
        masked: lambda*, R and the noise model.
        settings: Which mask and which noise.
        generators: One per image.
    """

    def __init__(
        self,
        masked: MaskedFeature,
        settings: LatentStage,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.masked, self.generators = masked, generators
        capacity = settings.z_star_mask == "capacity"
        self.keep, self.drop = (
            (masked.nats, 1 - masked.nats) if capacity else (masked.keep, masked.drop)
        )
        self.groups: tuple[Tensor, Tensor] | None = None
        if settings.z_star_noise == "uniform_groups":
            mean, std = uniform(generators, 2, GROUPS)
            self.groups = GROUP_MEAN * (2 * mean - 1), GROUP_STD * std  # (groups, B)

    def sample(self, samples: int) -> Tensor:
        """Z* (samples, B, *R)."""
        r, noise = self.masked.r, self.masked.noise
        unit_noise = normal_copies(self.generators, samples, r.shape[1:])
        if self.groups is None:
            return noise.restrict(r, self.keep, self.drop, unit_noise)
        member = (uniform(self.generators, samples) * GROUPS).long()  # (samples, B)
        mean, std = (g.gather(0, member)[(...,) + (None,) * (r.ndim - 1)] for g in self.groups)
        return mix(r, self.keep, self.drop, mean, std, unit_noise)


class CriticView:
    """Feature maps (S, B, *R) as critics take them, (S, B, C, h, w): laid out as a grid and, if
    wanted, standardised.
    """

    def __init__(self, masked: MaskedFeature, standardise: bool) -> None:
        self.layout, noise = masked.layout, masked.noise
        self.shift = noise.mean if standardise else torch.zeros_like(noise.mean)
        self.scale = noise.active / noise.std if standardise else torch.ones_like(noise.mean)

    def __call__(self, features: Tensor) -> Tensor:
        return self.layout.grid((features - self.shift) * self.scale).contiguous()


class RMSpropByImage(torch.optim.Optimizer):
    """RMSProp with one second moment for all elements of an image, without bias towards zero at the
    start.

    RMSProp's first steps move every element by the same amount in the direction of its gradient's
    sign, be it rounding noise or not. Here elements without influence stay where they are, and
    results vary smoothly with their inputs.
    """

    def __init__(self, parameters: Any, decay: float = 0.9) -> None:
        super().__init__(parameters, {"decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter (B, ...) that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state, decay = self.state[parameter], group["decay"]
                squares = parameter.grad.square().flatten(1).mean(dim=1)
                state["weight"] = decay * state.get("weight", 0.0) + 1 - decay
                state["moment"] = decay * state.get("moment", 0.0) + (1 - decay) * squares
                scale = (state["moment"] / state["weight"]).sqrt().clamp_min(1e-30)
                parameter.sub_(
                    group["lr"] * parameter.grad / scale[(...,) + (None,) * (parameter.ndim - 1)]
                )


@torch.enable_grad()
def fit_prior(
    start: InputPrior,
    images: Tensor,
    spread: Tensor,
    masked: MaskedFeature,
    head: Callable[[Tensor], Tensor],
    settings: InputIBASettings,
    generators: Sequence[torch.Generator],
    on_step: OnStep | None = None,
    design: CriticDesign | None = None,
) -> InputPrior:
    """Fit the prior of every image by a Wasserstein GAN (equation 3).

    Args:
        start: Where to begin.
        images: (B, 3, H, W).
        spread: Standard deviation of the local explanation set, broadcastable to the images.
        masked: lambda*, R and the noise of Z*.
        head: f, from images (N, 3, H, W) to feature maps (N, *R).
        settings: Steps, samples and learning rates.
        generators: One per image; all that is random comes from them.
        on_step: Told of every step.
        design: The critic's layers, where they are to be other than the settings say.

    Returns:
        The fitted prior.
    """
    s, c = settings.prior, settings.critics
    latent = LatentBottleneck(masked, settings.latent, generators)
    view = CriticView(masked, c.standardise)
    shape = masked.layout.grid(masked.r).shape[1:]
    design = design or (LINEAR if c.critic == "linear" else published_design(shape[0]))
    critic = Critic(shape, design, generators).to(masked.r.dtype)
    critics = torch.optim.RMSprop(critic.parameters(), lr=c.critic_learning_rate)
    logits, mean, std = (
        t.detach().clone().requires_grad_() for t in (start.logits, start.mean, start.std)
    )
    prior = InputPrior(logits, mean, std, start.smoothing_sigma)
    groups = [
        {"params": [logits], "lr": s.mask_learning_rate},
        {"params": [mean], "lr": s.noise_learning_rate},
        {"params": [std], "lr": s.noise_learning_rate / 2},
    ]
    mover: torch.optim.Optimizer = (
        RMSpropByImage(groups) if s.step_size == "image" else torch.optim.RMSprop(groups)
    )

    def fakes() -> Tensor:
        return view(prior_features(prior, images, spread, head, s, generators))

    # RMSProp is elementwise and every loss a sum over images: each image is fitted as if it were
    # alone.
    rates = [group["lr"] for group in mover.param_groups]
    for step in range(s.generator_steps):
        fake = fakes()
        for update in range(c.critic_steps + (0 if step else c.critic_warm_up)):
            if update and not c.reuse_fakes:
                fake = fakes()
            losses = critic_objective(
                critic, view(latent.sample(s.samples)), fake.detach(), c, generators
            )
            critics.zero_grad()
            losses.sum().backward()
            critics.step()
            if c.lipschitz == "clip":
                clip_weights(critic, c.clip)
        loss = -critic(fake).mean(dim=0).sum()
        gradients = torch.autograd.grad(loss, (logits, mean, std))
        for group, rate in zip(mover.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / s.generator_steps if s.decay else 1)
        for parameter, gradient in zip((logits, mean, std), gradients, strict=True):
            parameter.grad = gradient
        mover.step()
        if on_step:
            on_step("prior", step + 1, s.generator_steps)
    return InputPrior(logits.detach(), mean.detach(), std.detach(), start.smoothing_sigma)


def prior_features(
    prior: InputPrior,
    images: Tensor,
    spread: Tensor,
    head: Callable[[Tensor], Tensor],
    settings: PriorStage,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draws of f(Z_G), (S, B, *R): Z_G of a picture from the local explanation set of each image;
    see :func:`fit_prior`.
    """
    samples, around = settings.samples, images
    if settings.neighbourhood:
        around = images + spread * normal_copies(generators, samples, images.shape[1:])
    z = prior.sample(around, normal_copies(generators, samples, images.shape[1:]))
    return head(z.flatten(0, 1)).unflatten(0, (samples, len(images)))


def critic_objective(
    critic: Scorer,
    real: Tensor,
    fake: Tensor,
    settings: CriticStage,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """What a critic minimises on samples (S, B, C, h, w), with the gradient penalty where that is
    wanted: (B,).
    """
    loss = critic_loss(critic, real, fake)
    if settings.lipschitz == "gradient_penalty":
        between = uniform(generators, len(real)).to(real.dtype)
        # A gap between maps of n elements is of the order of sqrt(n), which the penalty must
        # outweigh.
        weight = settings.penalty * real[0, 0].numel() ** 0.5
        loss = loss + weight * gradient_penalty(critic, real, fake, between)
    return loss

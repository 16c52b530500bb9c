"""Settings of InputIBA for texts, one dataclass per stage, and where each value comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lit_iba.checks import check_counts, check_literals, check_numbers


@dataclass(frozen=True)
class TextPriorStage:
    """Stage b, the generator of the prior.

    Args:
        prior_start: lambda_G at the start, from the bits of each word in stage a: ``"share"`` of
            the largest (O), or ``"bits"`` as a logit (C).
        gan: ``"wgan"``, or ``"none"``: lambda_G stays as it starts.
        neighbourhood: Local explanation set: standard deviation of Gaussian noise on the
            embeddings, in units of sigma_I (C: 0).
        generator_steps: Updates of lambda_G, mu_G, sigma_G (C: 40).
        samples: Samples of f(Z_G), and of Z*, an update (C: 32).
        mask_learning_rate: Of RMSProp, for the logits of lambda_G (C: 0.03).
        noise_learning_rate: Of RMSProp, for mu_G; half of it for sigma_G (C: 0.1).
    """

    prior_start: Literal["share", "bits"] = "share"
    gan: Literal["wgan", "none"] = "wgan"
    neighbourhood: float = 0.1
    generator_steps: int = 40
    samples: int = 8
    mask_learning_rate: float = 0.1
    noise_learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(generator_steps=self.generator_steps, samples=self.samples)
        check_numbers(0, neighbourhood=self.neighbourhood)
        check_numbers(
            0,
            exclusive=True,
            mask_learning_rate=self.mask_learning_rate,
            noise_learning_rate=self.noise_learning_rate,
        )


@dataclass(frozen=True)
class TextCriticStage:
    """Stage b, the Wasserstein critic.

    Args:
        critic_steps: Updates of the critic before each of the generator (C: 3.5).
        critic_width: Channels of the critic.
        lipschitz: ``"gradient_penalty"`` (O) of weight 10, or ``"clip"``: weights within 0.01 (C).
        critic_learning_rate: Of RMSProp (C: 5e-5).
    """

    critic_steps: int = 4
    critic_width: int = 16
    lipschitz: Literal["gradient_penalty", "clip"] = "gradient_penalty"
    critic_learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(critic_steps=self.critic_steps, critic_width=self.critic_width)
        check_numbers(0, exclusive=True, critic_learning_rate=self.critic_learning_rate)


@dataclass(frozen=True)
class TextInputIBASettings:
    """The value of the authors' code where it gives one (C), else ours (O); the paper gives none
    for text.

    As for images, each setting is given by its own name alone.

    Args:
        prior: Of stage b's generator.
        critics: Of stage b's critic.
        beta_feat: Stage a, weight of the information (C: 15).
        feature_steps: Adam updates (C: 10), at learning rate 1 (C).
        beta_input: Stage c, weight of the information (C: 30).
        steps: Adam updates (C: 30).
        learning_rate: Of Adam (C: 0.5).
        copies: Noise copies per step of both masks (C: 10).
        output: ``"bits"`` a word (proposition 3), or the mean over dimensions of Lambda, ``"mask"``
            (C).

    Example:
        >>> from lit_iba.text import TextInputIBASettings
        >>> TextInputIBASettings(steps=5).prior.generator_steps
        40
    """

    prior: TextPriorStage = field(default_factory=TextPriorStage)
    critics: TextCriticStage = field(default_factory=TextCriticStage)
    beta_feat: float = 15.0
    feature_steps: int = 10
    beta_input: float = 30.0
    steps: int = 30
    learning_rate: float = 0.5
    copies: int = 10
    output: Literal["bits", "mask"] = "bits"

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(feature_steps=self.feature_steps, steps=self.steps, copies=self.copies)
        check_numbers(0, beta_feat=self.beta_feat, beta_input=self.beta_input)
        check_numbers(0, exclusive=True, learning_rate=self.learning_rate)

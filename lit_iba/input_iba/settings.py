"""Settings of InputIBA and where each value comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lit_iba.checks import check_literals
from lit_iba.errors import InputError, unknown_name

AT_LEAST_1 = (
    "feature_steps",
    "feature_copies",
    "generator_steps",
    "critic_steps",
    "samples",
    "steps",
    "copies",
    "forward_batch_size",
)
NOT_NEGATIVE = (
    "beta_feat",
    "feature_smoothing_sigma",
    "beta_input",
    "smoothing_sigma",
    "neighbourhood",
    "critic_warm_up",
    "penalty",
    "prior_smoothing_sigma",
)
POSITIVE = (
    "learning_rate",
    "critic_learning_rate",
    "mask_learning_rate",
    "noise_learning_rate",
    "clip",
)


@dataclass(frozen=True)
class InputIBASettings:
    """The paper's value where it gives one (S), the authors' code's where only that does (C), else
    ours (O).

    Args:
        beta_feat: Stage a, weight of the information in the features (S: 10).
        feature_steps: Adam updates of the features' mask (S: 10).
        feature_copies: Noise copies a step (C: 10).
        feature_smoothing_sigma: Blur of the features' mask, in positions (IBA: 1; C: none).
        feature_preset: Of :class:`PerSampleIBA`, for whatever else it sets.
        z_star_mask: What mixes R with noise in Z*: ``"lambda"`` (S), or ``"capacity"``, the nats an
            element (C).
        z_star_noise: That noise: ``"estimated"``, N(mu_R, sigma_R^2) (S), or ``"uniform_groups"``:
            ten random means and scales (C).
        prior_start: lambda_G at the start: bits a pixel of the features' map as its logit,
            ``"bits"`` (C), or ``"capped_bits"``, at most 3 (O).
        gan: ``"wgan"``: stage b fits lambda_G, mu_G and sigma_G; ``"none"``: lambda_G stays as it
            started (O).
        neighbourhood: Local explanation set: standard deviation of Gaussian noise on the image, in
            units of sigma_I (C: 0).
        generator_steps: Updates of lambda_G, mu_G, sigma_G (C: 40).
        critic_steps: Updates of the critic before each of these (C: 3.5).
        critic_warm_up: Further updates of the critic before the first (O).
        samples: Samples of f(Z_G), and of Z*, an update (C: 32).
        reuse_fakes: Whether all critic updates before a generator update see the same samples of
            f(Z_G), which then cost one pass through the network altogether (O); else new ones each
            time (C).
        critic: ``"linear"``: a weight an element of R (O), or ``"published"`` (C), see critic.py.
        standardise: Whether the critic sees (R - mu_R) / sigma_R (O) or R (C).
        lipschitz: ``"gradient_penalty"`` (O), or ``"clip"``: weights within [-clip, clip] (S: a
            WGAN).
        clip: Largest weight (C: 0.01).
        penalty: Weight of the gradient penalty (Gulrajani et al.: 10).
        critic_learning_rate: Of RMSProp (S: 5e-5).
        mask_learning_rate: Of RMSProp, for the logits of lambda_G (C: 0.003).
        noise_learning_rate: Of RMSProp, for mu_G; half of it for sigma_G (C: 0.1).
        step_size: RMSProp's second moment is kept for each ``"element"`` (C), or is one for each
            ``"image"`` (O).
        decay: Whether the generator's learning rates fall linearly to 0 (O).
        prior_smoothing_sigma: Blur of lambda_G, in pixels (C: 0).
        beta_input: Stage c, weight of the information in the input (S: 20).
        steps: Adam updates of the input's mask (S: 60).
        learning_rate: Of Adam, for both masks (S: 1).
        copies: Noise copies a step (C: 10).
        initial_alpha: Logit of both masks at the start (C: 5).
        smoothing_sigma: Blur of Lambda, in pixels (C: 1).
        passes: What goes through the network: ``"image"``: Lambda I + (1 - Lambda) eps, which
            remark 2 measures (C), or ``"prior"``: lambda_G Lambda in its place, as Z_I = Lambda Z_G
            + (1 - Lambda) eps is distributed (remark 1).
        input_noise: mu_I and sigma_I: ``"estimated"`` for each element (S), or ``"standard"``: 0
            and 1 (C).
        output: ``"bits"`` a pixel; or the mean over colours of Lambda (``"smoothed_lambda"``, S
            calls this InputIBA), or of sigmoid(alpha) (``"sigmoid_alpha"``, C).
        forward_batch_size: Images a forward pass at most, as far as one image's copies allow.
        precision: Of the network in all stages: ``"float32"``, or ``"bf16"`` under bfloat16
            autocast.

    Example:
        >>> from lit_iba.input_iba import InputIBASettings
        >>> InputIBASettings(gan="none").beta_input
        20.0
    """

    beta_feat: float = 10.0
    feature_steps: int = 10
    feature_copies: int = 10
    feature_smoothing_sigma: float = 1.0
    feature_preset: str = "default"
    z_star_mask: Literal["lambda", "capacity"] = "lambda"
    z_star_noise: Literal["estimated", "uniform_groups"] = "estimated"
    prior_start: Literal["capped_bits", "bits"] = "capped_bits"
    gan: Literal["wgan", "none"] = "wgan"
    neighbourhood: float = 0.1
    generator_steps: int = 30
    critic_steps: int = 5
    critic_warm_up: int = 30
    samples: int = 8
    reuse_fakes: bool = True
    critic: Literal["linear", "published"] = "linear"
    standardise: bool = True
    lipschitz: Literal["gradient_penalty", "clip"] = "gradient_penalty"
    clip: float = 0.01
    penalty: float = 10.0
    critic_learning_rate: float = 1e-3
    mask_learning_rate: float = 0.3
    noise_learning_rate: float = 0.05
    step_size: Literal["image", "element"] = "image"
    decay: bool = True
    prior_smoothing_sigma: float = 0.0
    beta_input: float = 20.0
    steps: int = 60
    learning_rate: float = 1.0
    copies: int = 10
    initial_alpha: float = 5.0
    smoothing_sigma: float = 1.0
    passes: Literal["image", "prior"] = "image"
    input_noise: Literal["estimated", "standard"] = "estimated"
    output: Literal["bits", "smoothed_lambda", "sigmoid_alpha"] = "bits"
    forward_batch_size: int = 80
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        check_literals(self)
        for name in AT_LEAST_1:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if self.samples < 2:
            raise InputError(f"samples is {self.samples}; a distribution needs at least 2")
        for name in NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be 0 or more")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be more than 0")

    def feature_changes(self) -> dict[str, Any]:
        """Settings of the feature stage's :class:`PerSampleIBA` besides its preset."""
        return {
            "beta": self.beta_feat,
            "steps": self.feature_steps,
            "copies": self.feature_copies,
            "smoothing_sigma": self.feature_smoothing_sigma,
            "learning_rate": self.learning_rate,
            "initial_alpha": self.initial_alpha,
            "precision": self.precision,
        }


PRESETS: dict[str, InputIBASettings] = {
    "default": InputIBASettings(),
    # What the published code does for ImageNet, but for 140 critic updates, which are 160 here.
    "reference": InputIBASettings(
        beta_feat=20.0,
        feature_smoothing_sigma=0.0,
        feature_preset="reference",
        z_star_mask="capacity",
        z_star_noise="uniform_groups",
        prior_start="bits",
        neighbourhood=0.0,
        generator_steps=40,
        critic_steps=4,
        critic_warm_up=0,
        samples=32,
        reuse_fakes=False,
        critic="published",
        standardise=False,
        lipschitz="clip",
        critic_learning_rate=5e-5,
        mask_learning_rate=0.003,
        noise_learning_rate=0.1,
        step_size="element",
        decay=False,
        input_noise="standard",
        output="sigmoid_alpha",
    ),
}


def settings_from(preset: str, changes: dict[str, Any]) -> InputIBASettings:
    """A preset with some settings changed.

    Raises:
        InputError: Unknown preset or setting (the nearest are named), or a value out of range.
    """
    if preset not in PRESETS:
        raise unknown_name("preset of InputIBA", preset, PRESETS)
    known = [field.name for field in fields(InputIBASettings)]
    for name in changes:
        if name not in known:
            raise unknown_name("setting of InputIBA", name, known)
    return replace(PRESETS[preset], **changes)

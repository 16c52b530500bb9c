"""Settings of InputIBA, one dataclass per stage, and where each value comes from.

Configs, the command line and Python name every setting by its own name alone (``beta_input: 30``):
the names are unique, and :func:`with_changes` puts each where it belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.errors import InputError, unknown_name

InputOutput = Literal["smoothed_lambda", "sigmoid_alpha", "bits", "total_bits", "prior_mask"]
MASK_SMOOTH = 4.0  # of ``"smoothed_lambda"`` unless said, in pixels of a picture of 224 (O)


@dataclass(frozen=True)
class FeatureStage:
    """Stage a: the bottleneck in the features.

    Args:
        beta_feat: Weight of the information in the features (S: 10).
        feature_steps: Adam updates of the features' mask (S: 10).
        feature_copies: Noise copies per step (C: 10).
        feature_smoothing_sigma: Blur of the features' mask, in positions (IBA: 1; C: none).
        feature_preset: Of :class:`PerSampleIBA`, for whatever else it sets.
    """

    beta_feat: float = 10.0
    feature_steps: int = 10
    feature_copies: int = 10
    feature_smoothing_sigma: float = 1.0
    feature_preset: str = "default"

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(feature_steps=self.feature_steps, feature_copies=self.feature_copies)
        check_numbers(
            0,
            beta_feat=self.beta_feat,
            feature_smoothing_sigma=self.feature_smoothing_sigma,
        )


@dataclass(frozen=True)
class LatentStage:
    """Z*, what stage b imitates: the features behind their bottleneck.

    Args:
        z_star_mask: What mixes R with noise in Z*: ``"lambda"`` (S), or ``"capacity"``, the nats an
            element (C).
        z_star_noise: That noise: ``"estimated"``, N(mu_R, sigma_R^2) (S), or ``"uniform_groups"``:
            ten random means and scales (C).
    """

    z_star_mask: Literal["lambda", "capacity"] = "lambda"
    z_star_noise: Literal["estimated", "uniform_groups"] = "estimated"

    def __post_init__(self) -> None:
        check_literals(self)


@dataclass(frozen=True)
class PriorStage:
    """Stage b: the generator of the prior, lambda_G, mu_G and sigma_G.

    Args:
        prior_start: lambda_G at the start: bits per pixel of the features' map as its logit,
            ``"bits"`` (C), or ``"capped_bits"``, at most 3 (O).
        gan: ``"wgan"``: stage b fits lambda_G, mu_G and sigma_G; ``"none"``: lambda_G stays as it
            started (O).
        neighbourhood: Local explanation set: standard deviation of Gaussian noise on the image, in
            units of sigma_I (C: 0).
        generator_steps: Updates of lambda_G, mu_G, sigma_G (C: 40).
        samples: Samples of f(Z_G), and of Z*, an update (C: 32).
        mask_learning_rate: Of RMSProp, for the logits of lambda_G (C: 0.003).
        noise_learning_rate: Of RMSProp, for mu_G; half of it for sigma_G (C: 0.1).
        step_size: RMSProp's second moment is kept for each ``"element"`` (C), or is one for each
            ``"image"`` (O).
        decay: Whether the generator's learning rates fall linearly to 0 (O).
        prior_smoothing_sigma: Blur of lambda_G, in pixels (C: 0).
    """

    prior_start: Literal["capped_bits", "bits"] = "capped_bits"
    gan: Literal["wgan", "none"] = "wgan"
    neighbourhood: float = 0.1
    generator_steps: int = 30
    samples: int = 8
    mask_learning_rate: float = 0.1
    noise_learning_rate: float = 0.05
    step_size: Literal["image", "element"] = "image"
    decay: bool = True
    prior_smoothing_sigma: float = 0.0

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(generator_steps=self.generator_steps, samples=self.samples)
        if self.samples < 2:
            raise InputError(f"samples is {self.samples}; a distribution needs at least 2")
        check_numbers(
            0, neighbourhood=self.neighbourhood, prior_smoothing_sigma=self.prior_smoothing_sigma
        )
        check_numbers(
            0,
            exclusive=True,
            mask_learning_rate=self.mask_learning_rate,
            noise_learning_rate=self.noise_learning_rate,
        )


@dataclass(frozen=True)
class CriticStage:
    """Stage b: the Wasserstein critic.

    Args:
        critic: ``"linear"``: one weight per element of R (O), or ``"published"`` (C), see
            critic.py.
        critic_steps: Updates of the critic before each of the generator (C: 3.5).
        critic_warm_up: Further updates of the critic before the first (O).
        reuse_fakes: Whether all critic updates before a generator update see the same samples of
            f(Z_G), which then cost one pass through the network altogether (O); else new ones each
            time (C).
        standardise: Whether the critic sees (R - mu_R) / sigma_R (O) or R (C).
        lipschitz: ``"gradient_penalty"`` (O), or ``"clip"``: weights within [-clip, clip] (S: a
            WGAN).
        clip: Largest weight (C: 0.01).
        penalty: Weight of the gradient penalty (Gulrajani et al.: 10).
        critic_learning_rate: Of RMSProp (S: 5e-5).
    """

    critic: Literal["linear", "published"] = "linear"
    critic_steps: int = 5
    critic_warm_up: int = 30
    reuse_fakes: bool = True
    standardise: bool = True
    lipschitz: Literal["gradient_penalty", "clip"] = "gradient_penalty"
    clip: float = 0.01
    penalty: float = 10.0
    critic_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(critic_steps=self.critic_steps)
        check_counts(0, critic_warm_up=self.critic_warm_up)
        check_numbers(0, penalty=self.penalty)
        check_numbers(
            0,
            exclusive=True,
            clip=self.clip,
            critic_learning_rate=self.critic_learning_rate,
        )


@dataclass(frozen=True)
class InputStage:
    """Stage c: the bottleneck at the input.

    Args:
        beta_input: Weight of the information in the input, a mean over colours and pixels (S: 20).
            A nat in one of them costs beta / (3 H W): at 112 pixels four times that at 224.
        steps: Adam updates of the input's mask (S: 60).
        copies: Noise copies per step (C: 10).
        smoothing_sigma: Blur of Lambda, in pixels (C: 1).
        passes: What goes through the network: ``"image"``: Lambda I + (1 - Lambda) eps, which
            remark 2 measures (C), or ``"prior"``: lambda_G Lambda in its place, as Z_I = Lambda Z_G
            + (1 - Lambda) eps is distributed (remark 1).
        input_noise: mu_I and sigma_I: ``"estimated"`` for each element (S), or ``"standard"``: 0
            and 1 (C).
        output: The mask, as a mean over colours: of Lambda, which is blurred in the fit
            (``"smoothed_lambda"``, S calls this InputIBA), or of sigmoid(alpha)
            (``"sigmoid_alpha"``, C); or information a pixel, summed over colours: ``"bits"`` beyond
            the prior (proposition 3), or ``"total_bits"``, as if there were no prior (equation 5 of
            IBA); or the prior's mask lambda_G (``"prior_mask"``), which figure 1 draws beside it.
    """

    beta_input: float = 20.0
    steps: int = 60
    copies: int = 10
    smoothing_sigma: float = 1.0
    passes: Literal["image", "prior"] = "image"
    input_noise: Literal["estimated", "standard"] = "estimated"
    output: InputOutput = "smoothed_lambda"

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(steps=self.steps, copies=self.copies)
        check_numbers(0, beta_input=self.beta_input, smoothing_sigma=self.smoothing_sigma)


@dataclass(frozen=True)
class InputIBASettings:
    """The paper's value where it gives one (S), the authors' code's where only that does (C), else
    ours (O).

    Args:
        features: Of stage a, the features' bottleneck.
        latent: Of Z*, which stage b imitates.
        prior: Of stage b's generator.
        critics: Of stage b's critic.
        input: Of stage c, the input's bottleneck.
        learning_rate: Of Adam, for the masks of stages a and c (S: 1).
        initial_alpha: Logit of both masks at the start (C: 5).
        forward_batch_size: Images per forward pass at most, as far as one image's copies allow.
        precision: Of the network in all stages: ``"float32"``, or ``"bf16"`` under bfloat16
            autocast.

    Example:
        >>> from lit_iba.input_iba import InputIBASettings
        >>> InputIBASettings().input.beta_input
        20.0
    """

    features: FeatureStage = field(default_factory=FeatureStage)
    latent: LatentStage = field(default_factory=LatentStage)
    prior: PriorStage = field(default_factory=PriorStage)
    critics: CriticStage = field(default_factory=CriticStage)
    input: InputStage = field(default_factory=InputStage)
    learning_rate: float = 1.0
    initial_alpha: float = 5.0
    forward_batch_size: int = 80
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        check_literals(self)
        check_counts(forward_batch_size=self.forward_batch_size)
        check_numbers(0, exclusive=True, learning_rate=self.learning_rate)

    def feature_changes(self) -> dict[str, Any]:
        """Settings of the feature stage's :class:`PerSampleIBA` besides its preset."""
        stage = self.features
        return {
            "beta": stage.beta_feat,
            "steps": stage.feature_steps,
            "copies": stage.feature_copies,
            "smoothing_sigma": stage.feature_smoothing_sigma,
            "learning_rate": self.learning_rate,
            "initial_alpha": self.initial_alpha,
            "precision": self.precision,
        }


Staged = TypeVar("Staged")


def flat(settings: Any) -> dict[str, Any]:
    """Every setting of a dataclass and of the stages in it, by its own name.

    Example:
        >>> from lit_iba.input_iba.settings import InputIBASettings, flat
        >>> flat(InputIBASettings())["beta_input"]
        20.0
    """
    found: dict[str, Any] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        found |= flat(value) if is_dataclass(value) else {one.name: value}
    return found


def with_changes(settings: Staged, changes: Mapping[str, Any], kind: str = "InputIBA") -> Staged:
    """The settings with some changed, each by its own name, in whichever stage it is.

    Args:
        settings: A dataclass, some of whose fields are dataclasses: the stages.
        changes: New values by name.
        kind: Whose settings, for the error.

    Raises:
        InputError: Unknown setting (the nearest are named), or a value out of range.

    Example:
        >>> from lit_iba.input_iba.settings import InputIBASettings, with_changes
        >>> with_changes(InputIBASettings(), {"beta_input": 30.0}).input.beta_input
        30.0
    """
    known = flat(settings)
    for name in changes:
        if name not in known:
            raise unknown_name(f"setting of {kind}", name, known)
    moved: dict[str, Any] = {}
    for one in fields(settings):  # type: ignore[arg-type] # a dataclass
        value = getattr(settings, one.name)
        if is_dataclass(value):
            inside = {name: changes[name] for name in flat(value) if name in changes}
            moved |= {one.name: replace(value, **inside)} if inside else {}  # type: ignore[type-var]
        elif one.name in changes:
            moved[one.name] = changes[one.name]
    return replace(settings, **moved)  # type: ignore[type-var]


PRESETS: dict[str, InputIBASettings] = {
    "default": InputIBASettings(),
    # What the published code does for ImageNet, but for 140 critic updates, which are 160 here.
    "reference": with_changes(
        InputIBASettings(),
        {
            "beta_feat": 20.0,
            "feature_smoothing_sigma": 0.0,
            "feature_preset": "reference",
            "z_star_mask": "capacity",
            "z_star_noise": "uniform_groups",
            "prior_start": "bits",
            "neighbourhood": 0.0,
            "generator_steps": 40,
            "critic_steps": 4,
            "critic_warm_up": 0,
            "samples": 32,
            "reuse_fakes": False,
            "critic": "published",
            "standardise": False,
            "lipschitz": "clip",
            "critic_learning_rate": 5e-5,
            "mask_learning_rate": 0.003,
            "noise_learning_rate": 0.1,
            "step_size": "element",
            "decay": False,
            "input_noise": "standard",
            "output": "sigmoid_alpha",
        },
    ),
}


def settings_from(preset: str, changes: Mapping[str, Any]) -> InputIBASettings:
    """A preset with some settings changed.

    Raises:
        InputError: Unknown preset or setting (the nearest are named), or a value out of range.
    """
    if preset not in PRESETS:
        raise unknown_name("preset of InputIBA", preset, PRESETS)
    return with_changes(PRESETS[preset], changes)


def unit_of(output: InputOutput) -> str:
    """The unit of an output's values: a mask has none."""
    return "bits" if output in ("bits", "total_bits") else "1"


def smooth_of(output: InputOutput, smooth: float | None) -> float:
    """How much an output is blurred, in pixels of a picture of 224: as said, or else a little where
    it is the mask Lambda, and not at all where it is in bits, or as the published code has it.

    Raises:
        InputError: It is no number of at least 0.
    """
    if smooth is None:
        return MASK_SMOOTH if output == "smoothed_lambda" else 0.0
    check_numbers(0, smooth=smooth)
    return float(smooth)

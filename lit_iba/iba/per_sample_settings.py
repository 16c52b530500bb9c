"""Settings of the Per-Sample bottleneck: what the paper says, what the authors' code does, and
ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lit_iba.checks import check_kinds, check_literals, check_numbers
from lit_iba.errors import InputError, unknown_name


def check_noise(min_std: float, smoothing_sigma: float, active_threshold: float) -> None:
    """Refuse what no bottleneck's noise or blur can be.

    Raises:
        InputError: Of these settings, one is out of range.
    """
    check_numbers(0, min_std=min_std, smoothing_sigma=smoothing_sigma)
    if not active_threshold < 1:
        raise InputError(
            f"active_threshold is {active_threshold}; no element is active in a larger share of the"
            " images than 1, so that nothing would carry information: give less than 1"
        )


@dataclass(frozen=True)
class PerSampleSettings:
    """Settings of the Per-Sample bottleneck; the paper's values (table 2) where it gives one.

    Args:
        beta: Weight of the information (mean over elements), the paper's "beta = 10/k"; or
            ``"auto"``: for each image the largest between 0.1 and 1,000 with which the target keeps
            ``wanted_probability``.
        wanted_probability: With ``beta="auto"``, the mean probability of the target over the noise
            copies; an image whose target has less without a bottleneck is to keep that.
        beta_probes: With ``beta="auto"``, how many weights are tried; each costs one optimisation.
        steps: Adam updates.
        learning_rate: Of Adam.
        copies: Noise samples per image and step.
        initial_alpha: Logit of lambda at the start: 5 lets nearly everything pass.
        smoothing_sigma: Standard deviation of the blur of lambda, in positions; 0 for none.
        statistics_kind: ``"welford"`` or ``"relu_rms"``, see :class:`NoiseModel`.
        min_std: Floor of the noise's standard deviation; where all of the layer's are
            about as small or smaller, the root of their mean square.
        active_threshold: Elements active in at most this share of images carry no information.
        inactive: What those become, ``"mean"`` or ``"zero"``.
        relu_clamp: Whether Z is clamped to be non-negative, as the authors' evaluation code does
            behind the ReLUs of a ResNet.
        read_after: ``"T"``: the heatmap is read after all updates; ``"T-1"``: before the last, as
            in the authors' code.
        unit: ``"bits"``, or ``"minmax"``: [0, 1] per image, as the authors' evaluation code.
        resize_edge: ``"clamp"`` or ``"mirror"``, see :func:`resize_keeping_total`.
        precision: ``"float32"``, or ``"bf16"``: the layers behind the bottleneck under bfloat16
            autocast.
        compile: Whether to compile the layers behind the bottleneck, worth it for many images of
            one size.
        cuda_graph: Whether a step is captured once for each shape and replayed; on a GPU, small
            batches gain most.

    Example:
        >>> from lit_iba.iba import PerSampleSettings
        >>> settings = PerSampleSettings(beta=100.0)
        >>> settings.beta, settings.steps, settings.copies
        (100.0, 10, 10)
    """

    beta: float | Literal["auto"] = 10.0
    wanted_probability: float = 0.5
    beta_probes: int = 6
    steps: int = 10
    learning_rate: float = 1.0
    copies: int = 10
    initial_alpha: float = 5.0
    smoothing_sigma: float = 1.0
    statistics_kind: Literal["welford", "relu_rms"] = "welford"
    min_std: float = 0.01
    active_threshold: float = 0.01
    inactive: Literal["mean", "zero"] = "mean"
    relu_clamp: bool = False
    read_after: Literal["T", "T-1"] = "T"
    unit: Literal["bits", "minmax"] = "bits"
    resize_edge: Literal["clamp", "mirror"] = "clamp"
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        check_literals(self)
        for name in ("steps", "copies", "beta_probes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_kinds(PerSampleSettings, vars(self))
        check_numbers(0, exclusive=True, learning_rate=self.learning_rate)
        check_noise(self.min_std, self.smoothing_sigma, self.active_threshold)
        if self.beta != "auto":
            if isinstance(self.beta, str):
                raise InputError(f"beta is {self.beta!r}; it must be a number or 'auto'")
            if self.beta < 0:
                raise InputError(
                    f"beta is {self.beta}; a negative weight would reward information, give 0 or "
                    "more"
                )
        if not 0 < self.wanted_probability < 1:
            raise InputError(
                f"wanted_probability is {self.wanted_probability}; it must lie between 0 and 1"
            )


PRESETS: dict[str, PerSampleSettings] = {
    "default": PerSampleSettings(),
    # What the published library does (IBA/pytorch.py): one update short, inactive units zero,
    # scikit-image's resize.
    "reference": PerSampleSettings(read_after="T-1", inactive="zero", resize_edge="mirror"),
    # What the paper's evaluation code does, with which its tables were made: behind the ReLU of a
    # ResNet, and at VGG-16's convolution, whose output may be negative.
    "reference_paper": PerSampleSettings(
        read_after="T-1",
        statistics_kind="relu_rms",
        active_threshold=-1.0,
        relu_clamp=True,
        unit="minmax",
    ),
    "reference_paper_vgg16": PerSampleSettings(
        read_after="T-1", active_threshold=-1.0, unit="minmax"
    ),
}


def settings_from(preset: str, changes: dict[str, Any]) -> PerSampleSettings:
    """A preset with some settings changed.

    Raises:
        InputError: Unknown preset or setting; the nearest are named.
    """
    if preset not in PRESETS:
        raise unknown_name("preset of PerSampleIBA", preset, PRESETS)
    known = [field.name for field in fields(PerSampleSettings)]
    for name in changes:
        if name not in known:
            raise unknown_name("setting of PerSampleIBA", name, known)
    return replace(PRESETS[preset], **changes)

"""How methods, metrics and numbers are written in a report, the same in HTML, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lit_iba.report.published import canonical, squeezed
from lit_iba.report.run_folder import ExplainerInfo, MetricInfo, RunFolder

_METHODS = {
    "per_sample_iba": "IBA Per-Sample",
    "readout_iba": "IBA Readout",
    "input_iba": "InputIBA",
    "varsal": "VarSal",
    "random": "Random",
    "gradient": "Gradient",
    "saliency": "Saliency",
    "input_x_gradient": "Input × gradient",
    "integrated_gradients": "Integrated gradients",
    "smoothgrad": "SmoothGrad",
    "smoothgrad_squared": "SmoothGrad²",
    "grad_cam": "Grad-CAM",
    "guided_backprop": "Guided backprop",
    "guided_grad_cam": "Guided Grad-CAM",
    "occlusion_8": "Occlusion 8×8",
    "occlusion_14": "Occlusion 14×14",
    "pattern_attribution": "PatternAttribution",
    "lrp_alpha1_beta0": "LRP α1 β0",
    "lrp_alpha0_beta1": "LRP α0 β1",
    "extremal_perturbation": "Extremal perturbation",
    "deep_shap": "DeepSHAP",
    "lime": "LIME",
    "pda": "PDA",
    "real_time_saliency": "Real-time saliency",
    "fido": "FIDO",
    "fullgrad": "FullGrad",
    "top_layer": "Top layer",
}
_METRICS = {
    "degradation": "Degradation",
    "boundingbox": "Bounding box",
    "sensitivityn": "Sensitivity-n",
    "effectiveheatratio": "Effective heat ratio",
    "insertion": "Insertion",
    "deletion": "Deletion",
    "insertiondeletion": "Insertion / deletion",
    "bitsandaccuracy": "Bits and accuracy",
    "sanitycheck": "Sanity check",
    "lowkperturbation": "Low-k perturbation",
    "decisionflip": "Decision flip",
    "latency": "Latency",
    "roar": "ROAR",
}
ABSENT = "–"


def method_labels(names: Iterable[str]) -> dict[str, str]:
    """How the methods are called in print; names that are not ours stay as the user wrote them."""
    return {name: _METHODS.get(name, name) for name in names}


def metric_kind(name: str, info: MetricInfo) -> str:
    """The metric's canonical name, from its class or, failing that, from the name that the config gives it."""
    for given in (info.cls, name):
        kind = canonical("metrics", given)
        if squeezed(kind) in _METRICS:
            return kind
    return squeezed(name)


def metric_labels(run: RunFolder) -> dict[str, str]:
    """How the metrics are called in print: kind and tile, and the config's name where these are not enough."""
    labels = {}
    for name, info in run.metrics.items():
        kind = squeezed(metric_kind(name, info))
        tile = info.settings.get("tile")
        tile = tile[0] if isinstance(tile, (list, tuple)) and tile else tile
        suffix = "" if tile is None else f", {tile}×{tile} tiles" if tile != 1 else ", pixels"
        labels[name] = f"{_METRICS[kind]}{suffix}" if kind in _METRICS else name
    counts = Counter(labels.values())
    return {name: label if counts[label] == 1 else f"{label} ({name})" for name, label in labels.items()}


def number(value: float, digits: int = 3) -> str:
    """A number for a table: three decimals where they fit, a typographic minus, a dash where it is not a number."""
    if not math.isfinite(value):
        return ABSENT if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size == 0 or 0.5 * 10**-digits <= size < 100:
        text = f"{value:.{digits}f}"
    elif 100 <= size < 1e5:
        text = f"{value:.1f}"
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−", 1)


def seconds(value: float) -> str:
    """Seconds an image, with the unit that keeps the number readable."""
    if not math.isfinite(value):
        return ABSENT
    if value < 1:
        return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.2g} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def p_value(value: float | None) -> str:
    """A p-value, adjusted; three decimals, or an upper bound."""
    if value is None or math.isnan(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings on one line."""
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def unit_text(info: ExplainerInfo) -> str:
    """What the values of a heatmap are, in words."""
    unit = "bits per pixel" if info.unit == "bits" else "relative (order only)" if info.unit == "1" else info.unit
    return f"{unit}, signed" if info.signed else unit

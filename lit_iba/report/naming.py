"""How methods, metrics and numbers are written in a report, the same in HTML, Markdown and LaTeX.

What a method or a metric of ours is called stands on its class, as ``label``; only the classes of a
report's own methods are imported for it.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.metrics.registered import METRICS, metric_class
from lit_iba.report.published import Published, canonical, squeezed
from lit_iba.report.run_folder import ExplainerInfo, MetricInfo, RunFolder

_STUDIES = {"roar": "ROAR"}  # no heatmap metrics, but reported as one
_IN_LABELS = ("tile", "alpha", "beta")  # settings that the label of a class may say
ABSENT = "–"


def method_labels(explainers: Iterable[str] | Mapping[str, ExplainerInfo]) -> dict[str, str]:
    """How the methods are called in print; names that are not ours stay as the user wrote them.

    Where their classes and settings are given, a name of ours that stands for another class has
    that class's label beside it, and a label that says a setting says the one that there is.
    """
    if not isinstance(explainers, Mapping):
        return {
            name: explainer_class(name).label if name in EXPLAINERS else name for name in explainers
        }
    labels = {name: _method_label(name, info) for name, info in explainers.items()}
    counts = Counter(labels.values())
    return {
        name: label if counts[label] == 1 else f"{label} ({name})" for name, label in labels.items()
    }


def _method_label(name: str, info: ExplainerInfo) -> str:
    if info.label:
        return info.label
    if name not in EXPLAINERS:
        return name
    kind = canonical("explainers", info.cls or name)
    if kind != name:
        other = explainer_class(kind).label if kind in EXPLAINERS else info.cls
        return f"{other} ({name})"
    own = explainer_class(name)
    defaults = inspect.signature(own).parameters
    changed = [
        f"{setting} {info.settings[setting]}"
        for setting in _IN_LABELS
        if setting in info.settings
        and setting in defaults
        and info.settings[setting] != defaults[setting].default
    ]
    if not changed or not any(letter.isdigit() for letter in own.label):
        return own.label
    return f"{own.label.split()[0]}, {', '.join(changed)}"


def metric_samples(run: RunFolder, metric: str) -> str:
    """What a metric's scores are of: images, reviews, or the trainings of ROAR."""
    roar = metric_kind(metric, run.metrics[metric]) == "roar"
    return "trainings" if roar else run.samples


def metric_kind(name: str, info: MetricInfo) -> str:
    """The metric's canonical name, from its class or, failing that, from the name that the config
    gives it.
    """
    if (own := canonical("metrics", info.cls)) == info.cls and "." in own:
        return own  # a class of the user's own, whatever the config calls it
    for given in (info.cls, name):
        kind = canonical("metrics", given)
        if kind in METRICS or kind in _STUDIES:
            return kind
    return squeezed(name)


def metric_labels(run: RunFolder) -> dict[str, str]:
    """How the metrics are called in print: kind and tile, and the config's name where these are not
    enough.
    """
    labels = {}
    for name, info in run.metrics.items():
        kind = metric_kind(name, info)
        tile = info.settings.get("tile")
        tile = tile[0] if isinstance(tile, (list, tuple)) and tile else tile
        suffix = "" if tile is None else f", {tile}×{tile} tiles" if tile != 1 else ", pixels"
        label = metric_class(kind).label if kind in METRICS else _STUDIES.get(kind)
        labels[name] = name if label is None else f"{label}{suffix}"
    counts = Counter(labels.values())
    return {
        name: label if counts[label] == 1 else f"{label} ({name})" for name, label in labels.items()
    }


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence; of more than ``most``, the last are only counted."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: float, digits: int = 3) -> str:
    """A number for a table: three decimals where they fit, a typographic minus, a dash where it is
    not a number.
    """
    if not math.isfinite(value):
        return ABSENT if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size == 0 or 0.5 * 10**-digits <= size < 100:
        text = f"{value:.{digits}f}"
    elif 100 <= size < 1e5:
        text = f"{value:.1f}"
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    """Both ends of an interval with equal decimals, or a dash where there is none."""
    if any(map(math.isnan, ends)):
        return ABSENT
    if 5e-4 <= max(map(abs, ends)) < 100:
        return " to ".join(f"{end:.3f}".replace("-", "−") for end in ends)
    return f"{number(ends[0])} to {number(ends[1])}"


def bits(value: float) -> str:
    """Bits, in whole ones where there are many, thousands set apart."""
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 100 else number(value, 1)


def printed(value: Published) -> str:
    """A published number as the paper states it: relation, value, standard error, unit."""
    error = f" ± {number(value.standard_error)}" if value.standard_error is not None else ""
    in_text = bool(
        value.relation or value.unit
    )  # a table has three decimals, a sentence as many as it says
    text = f"{value.value:g}".replace("-", "−") if in_text else number(value.value)
    return f"{value.relation} {text}{error} {value.unit}".strip()


def seconds(value: float) -> str:
    """Seconds per image, with the unit that keeps the number readable."""
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
    unit = (
        "bits per pixel"
        if info.unit == "bits"
        else "relative (order only)"
        if info.unit == "1"
        else info.unit
    )
    return f"{unit}, signed" if info.signed else unit


def sum_error(info: ExplainerInfo) -> str:
    """How far the attributions are from the sum that the method promises, relative to it; a dash
    where it promises none.
    """
    return ABSENT if math.isnan(info.completeness_error) else f"{info.completeness_error:.1e}"

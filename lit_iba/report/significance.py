"""Which differences between methods are more than chance: paired Wilcoxon signed-rank tests, corrected after Holm.

The pairs are images: two methods are compared on the images that both explained. Holm, "A simple sequentially rejective
multiple test procedure" (Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata, wilcoxon

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """How the methods of one metric stand to the best of them.

    Args:
        best: The method with the best mean; None where no score is a number.
        adjusted: Holm-adjusted two-sided p-value of the best against each other method that could be tested.
        separated: Methods that the best is separated from.
        clear: Whether the best is separated from every other method.
        pairs: Number of images of each comparison.
    """

    best: str | None
    adjusted: Mapping[str, float] = field(default_factory=dict)
    separated: frozenset[str] = frozenset()
    clear: bool = False
    pairs: Mapping[str, int] = field(default_factory=dict)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values, in the order given; compare each with the level of significance."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def signed_rank_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Two-sided Wilcoxon signed-rank test of paired values (N,), pairs without a difference left out.

    Returns:
        p-value, and the sum of signed ranks, whose sign says which of the two tends to be larger.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference = difference[np.isfinite(difference) & (difference != 0)]
    if len(difference) == 0:
        return 1.0, 0.0
    signed = float((np.sign(difference) * rankdata(np.abs(difference))).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small samples and ties are judged by the p-value, not by a message
        p_value = float(wilcoxon(difference).pvalue)
    return (1.0 if math.isnan(p_value) else p_value), signed


def compare_to_best(
    scores: Mapping[str, float], rows: Mapping[str, Mapping[str, float]], better: str, level: float = SIGNIFICANCE
) -> Comparison:
    """Test the method with the best mean against every other one.

    Args:
        scores: Mean of each method.
        rows: Per method, the value of each image by its key.
        better: ``"higher"`` or ``"lower"``.
        level: Level of significance for the adjusted p-values.
    """
    finite = {name: score for name, score in scores.items() if math.isfinite(score)}
    if not finite:
        return Comparison(best=None)
    sign = -1.0 if better == "lower" else 1.0
    best = max(finite, key=lambda name: sign * finite[name])
    raw, direction, pairs = {}, {}, {}
    for name in finite:
        keys = sorted(rows.get(best, {}).keys() & rows.get(name, {}).keys())
        if name == best or not keys:
            continue
        first = np.array([rows[best][key] for key in keys])
        second = np.array([rows[name][key] for key in keys])
        raw[name], direction[name] = signed_rank_test(first, second)
        pairs[name] = int((np.isfinite(first) & np.isfinite(second)).sum())
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    separated = frozenset(name for name, p in adjusted.items() if p < level and direction[name] * sign > 0)
    others = finite.keys() - {best}
    return Comparison(best, adjusted, separated, clear=bool(others) and others == separated, pairs=pairs)

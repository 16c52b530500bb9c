"""How sure a mean over images is, and which differences between methods are more than chance.

Means have bootstrap intervals; methods are compared by paired Wilcoxon signed-rank tests, corrected
after Holm over all pairs of methods. The values of a test are paired by image: two methods are
compared on the images that both explained. Holm, "A simple sequentially rejective multiple test
procedure" (Scandinavian Journal of Statistics 6, 1979); Efron and Tibshirani, "An Introduction to
the Bootstrap" (1993), chapter 13; Hesterberg, "What Teachers Should Know About the Bootstrap"
(American Statistician 69, 2015), on intervals of few values. Rank correlations say how far our
order of the methods is a paper's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import scipy  # its submodules are imported on first use, which takes half a second

SIGNIFICANCE = 0.05
CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_RESAMPLED = 6  # of fewer images, all lie on one side of the mean in 6 % of cases or more
FEWEST_RANKED = 4  # methods; with fewer, a rank correlation says next to nothing


@dataclass(frozen=True)
class Comparison:
    """How the methods of one metric stand to the best of them.

    Args:
        best: The method with the best mean; None where no score is a number.
        adjusted: Two-sided p-value of the best against each other method that could be tested,
            Holm-adjusted over all pairs.
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
    """Holm's step-down adjustment of p-values, in the order given; compare each with the level of
    significance.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def signed_rank_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Two-sided Wilcoxon signed-rank test of paired values (N,), pairs without a difference left
    out.

    Returns:
        p-value, and the sum of signed ranks, whose sign says which of the two tends to be larger.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference = difference[np.isfinite(difference) & (difference != 0)]
    if len(difference) == 0:
        return 1.0, 0.0
    signed = float((np.sign(difference) * scipy.stats.rankdata(np.abs(difference))).sum())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # small samples and ties are judged by the p-value, not by a message
        p_value = float(scipy.stats.wilcoxon(difference).pvalue)
    return (1.0 if math.isnan(p_value) else p_value), signed


@dataclass(frozen=True)
class Pair:
    """One comparison of two methods.

    Args:
        adjusted: Two-sided p-value, Holm-adjusted over all pairs of the metric.
        ahead: Which of the two is better on the whole, by the sum of signed ranks: 1 the first, -1
            the second, 0 neither.
        images: Number of images that both have.
    """

    adjusted: float
    ahead: int
    images: int


def compare_all(
    rows: Mapping[str, Mapping[str, float]], better: str
) -> dict[tuple[str, str], Pair]:
    """Test every method against every other one; each pair is there once, in the order of ``rows``.

    Args:
        rows: Per method, the value of each image by its key.
        better: ``"higher"`` or ``"lower"``.
    """
    sign = -1.0 if better == "lower" else 1.0
    keys = sorted(set().union(*rows.values()))
    columns = {
        name: np.array([values.get(key, math.nan) for key in keys]) for name, values in rows.items()
    }
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    for one, other in combinations(rows, 2):
        first, second = columns[one], columns[other]
        images = int((np.isfinite(first) & np.isfinite(second)).sum())
        if images:
            p_value, ranks = signed_rank_test(first, second)
            found[one, other] = p_value, int(np.sign(sign * ranks)), images
    adjusted = holm([p_value for p_value, _, _ in found.values()])
    return {
        names: Pair(p_value, ahead, images)
        for (names, (_, ahead, images)), p_value in zip(found.items(), adjusted, strict=True)
    }


def compare_to_best(
    scores: Mapping[str, float],
    pairs: Mapping[tuple[str, str], Pair],
    better: str,
    level: float = SIGNIFICANCE,
) -> Comparison:
    """How the method with the best mean stands to every other one.

    Which method is best is seen on the same images, so that its tests are corrected for all pairs
    that they could have been of: where ten methods are equally good, corrections for nine tests
    separate some of them from the best in 14 of 100 cases (``benchmarks/error_rates.py``).

    Args:
        scores: Mean of each method.
        pairs: Of :func:`compare_all`.
        better: ``"higher"`` or ``"lower"``.
        level: Level of significance for the adjusted p-values.
    """
    finite = {name: score for name, score in scores.items() if math.isfinite(score)}
    if not finite:
        return Comparison(best=None)
    sign = -1.0 if better == "lower" else 1.0
    best = max(finite, key=lambda name: sign * finite[name])
    found: dict[str, Pair] = {}
    for (first, second), pair in pairs.items():
        if first == best and second in finite:
            found[second] = pair
        elif second == best and first in finite:
            found[first] = replace(pair, ahead=-pair.ahead)
    separated = frozenset(
        name for name, pair in found.items() if pair.adjusted < level and pair.ahead > 0
    )
    others = finite.keys() - {best}
    return Comparison(
        best,
        {name: pair.adjusted for name, pair in found.items()},
        separated,
        clear=bool(others) and others == separated,
        pairs={name: pair.images for name, pair in found.items()},
    )


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, of values that are numbers; NaN for fewer than
    ``FEWEST_RESAMPLED``, of which no interval between them could be what it says.

    The percentiles are those that give the length of Student's interval where values are normal:
    resamples of few values have too little spread, by a factor of sqrt((n - 1) / n), and no tails.
    The resamples are the same for equal data, so a report does not change when it is written again.
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if (n := len(data)) < FEWEST_RESAMPLED:
        return math.nan, math.nan
    student = scipy.stats.t.isf((1 - confidence) / 2, n - 1)
    tail = float(scipy.stats.norm.sf(math.sqrt(n / (n - 1)) * student))
    found = scipy.stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // n),
        confidence_level=1 - 2 * tail,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of our scores with published ones over ``methods`` methods; NaN where one
    side is constant.
    """

    spearman: float
    kendall: float
    methods: int


def rank_agreement(ours: Sequence[float], published: Sequence[float]) -> Agreement | None:
    """Spearman's rho and Kendall's tau-b of two columns; None for fewer than four methods that have
    both numbers.
    """
    pairs = [pair for pair in zip(ours, published, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < FEWEST_RANKED:
        return None
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return Agreement(math.nan, math.nan, len(pairs))
    return Agreement(
        float(scipy.stats.spearmanr(first, second).statistic),
        float(scipy.stats.kendalltau(first, second).statistic),
        len(pairs),
    )

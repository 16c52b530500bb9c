"""How often a report is wrong about chance, on simulated scores.

Intervals: how many of the "95 %" intervals of a mean hold the true one, for normal and for skewed
(exponential) scores; ours beside plain percentiles of the same number of resamples. The best
method: how often ten equally good ones have some that are called worse than the best, corrected
for all pairs, as a report does it, beside corrections for the comparisons with the best alone.
Each rate has its standard error.

    python benchmarks/error_rates.py [--cases 2000]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from timing import report

from lit_iba.report.significance import (
    RESAMPLES,
    SIGNIFICANCE,
    compare_all,
    compare_to_best,
    holm,
    mean_interval,
    signed_rank_test,
)

Interval = Callable[[Sequence[float]], tuple[float, float]]
DRAWS = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
}


def plain_percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of resampled means."""
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def row(what: str, case: str, hits: Sequence[bool]) -> dict[str, object]:
    """A line of the table."""
    share = float(np.mean(hits))
    error = math.sqrt(share * (1 - share) / len(hits))
    return {"what": what, "case": case, "rate": share, "standard error": error, "cases": len(hits)}


def intervals(cases: int) -> list[dict[str, object]]:
    """How often an interval holds the true mean."""
    rows = []
    ways: dict[str, Interval] = {"plain percentiles": plain_percentiles, "ours": mean_interval}
    for kind, (draw, mean) in DRAWS.items():
        for images in (8, 40):
            rng = np.random.default_rng(0)
            samples = [draw(rng, images).tolist() for _ in range(cases)]
            for way, interval in ways.items():
                ends = [interval(values) for values in samples]
                held = [low <= mean <= high for low, high in ends]
                rows.append(row(f"interval holds the mean, {way}", f"{images} {kind}", held))
    return rows


def best_methods(cases: int, methods: int = 10, images: int = 40) -> list[dict[str, object]]:
    """How often some of equally good methods are separated from the best of them."""
    rng = np.random.default_rng(0)
    of_pairs, of_best = list[bool](), list[bool]()
    for _ in range(cases):
        scores = rng.normal(size=images) + rng.normal(size=(methods, images))
        means = {str(i): float(line.mean()) for i, line in enumerate(scores)}
        rows = {str(i): {str(j): float(v) for j, v in enumerate(s)} for i, s in enumerate(scores)}
        found = compare_to_best(means, compare_all(rows, "higher"), "higher")
        of_pairs.append(bool(found.separated))
        best = int(found.best or 0)
        tests = [signed_rank_test(scores[best], scores[i]) for i in range(methods) if i != best]
        adjusted = holm([p for p, _ in tests])
        of_best.append(
            any(p < SIGNIFICANCE and t[1] > 0 for p, t in zip(adjusted, tests, strict=True))
        )
    case = f"{methods} equal methods, {images} images"
    return [
        row("some separated, corrected for the best's tests", case, of_best),
        row("some separated, corrected for all pairs", case, of_pairs),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=2000)
    given = parser.parse_args()
    report("error_rates", [*intervals(given.cases), *best_methods(given.cases)])

"""What the measurements of uncertainty_run.py say: tables, correlations, calibration and abstain
curves as plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lit_iba.varsal.uncertainty import (
    LEVELS,
    AbstainCurve,
    Array,
    abstain_curve,
    band_ranks,
    correlation,
    coverage,
)
from lit_iba.varsal.uncertainty_run import (
    CONTROLS,
    MEASURES,
    Measurements,
    UncertaintySettings,
)

CURVE_POINTS = 200  # of an abstain curve
PARTS = {"clean": slice(0, 1), "all": slice(None)}  # columns: the clean images, or every condition


def results_of(measured: Measurements, settings: UncertaintySettings) -> dict[str, Any]:
    """All that follows from the measurements.

    Returns:
        What the measurements are ``about``, and ``settings``; ``conditions``: for each, mean and
        standard error of the uncertainties and of the error, of the ratio of an image's deviation
        to its own when clean, and the correlations of uncertainty and error: for each measure and
        control ``spearman`` and ``pearson``, and for each measure ``spearman_given_entropy``, the
        partial correlation; ``all``: those correlations over all conditions; ``abstain``: curves
        for the clean images and for all;
        ``calibration``: for each calibrated condition, how often the outcome of the mean map (and
        of a held-out sample) lies in the band of the sampled maps' outcomes, see
        :func:`lit_iba.varsal.uncertainty.coverage`. The held-out sample is drawn
        as the others are, so that its curve is the diagonal up to chance: the control. The mean
            map's curve is the finding, and
        ``mean_rank`` says to which side it errs (below 1/2: the mean map is better than its
        samples).
    """
    rows = measured.rows
    error, clean = rows["error"], rows["deviation"][:, :1]
    conditions = []
    for column, (name, severity) in enumerate(settings.conditions):
        conditions.append(
            {
                "corruption": name,
                "severity": severity,
                "images": len(error),
                **{
                    which: _mean_and_error(values[:, column])
                    for which, values in _per_condition(rows).items()
                },
                "deviation_over_clean": _mean_and_error(
                    rows["deviation"][:, column] / np.maximum(clean[:, 0], 1e-12)
                ),
                "correlation": _relations(rows, slice(column, column + 1), settings),
            }
        )
    calibration = []
    for place, (name, severity) in enumerate(settings.calibrated):
        outcomes = rows["outcomes"][:, place]
        column = settings.conditions.index((name, severity))
        tested = {"mean_map": error[:, column], "held_out": outcomes[:, -1]}
        ranks = {which: band_ranks(outcomes[:, :-1], values) for which, values in tested.items()}
        calibration.append(
            {
                "corruption": name,
                "severity": severity,
                "images": len(error),
                "samples": settings.samples,
                "levels": list(LEVELS),
                "sampled_error": _mean_and_error(outcomes.mean(axis=1)),
                **{
                    which: {"coverage": coverage(r), "mean_rank": float(r.mean())}
                    for which, r in ranks.items()
                },
            }
        )
    return measured.about | {
        "settings": asdict(settings),
        "conditions": conditions,
        "all": {"correlation": _relations(rows, slice(None), settings)},
        "calibration": calibration,
        "abstain": {
            which: {
                measure: _curve(
                    abstain_curve(error[:, part].ravel(), rows[measure][:, part].ravel())
                )
                for measure in _measures(rows)
            }
            for which, part in PARTS.items()
        },
    }


def table_rows(measured: Measurements, settings: UncertaintySettings) -> list[dict[str, Any]]:
    """A row for each image and condition."""
    return [
        {"key": key, "corruption": name, "severity": severity}
        | {which: float(v[i, column]) for which, v in _per_condition(measured.rows).items()}
        for i, key in enumerate(measured.keys)
        for column, (name, severity) in enumerate(settings.conditions)
    ]


def _relations(
    rows: Mapping[str, Array], columns: slice, settings: UncertaintySettings
) -> dict[str, Any]:
    def between(measure: str, kind: str, given: Array | None = None) -> dict[str, float | None]:
        sides = rows[measure][:, columns], rows["error"][:, columns]
        return asdict(correlation(*sides, kind, settings.resamples, settings.seed, given))

    found = {
        measure: {kind: between(measure, kind) for kind in ("spearman", "pearson")}
        for measure in _measures(rows)
    }
    if "entropy" in rows:
        for measure in MEASURES:
            found[measure]["spearman_given_entropy"] = between(
                measure, "spearman", rows["entropy"][:, columns]
            )
    return found


def _measures(rows: Mapping[str, Array]) -> list[str]:
    """Of the uncertainties and their controls, those that were measured."""
    return [name for name in (*MEASURES, *CONTROLS) if name in rows]


def _per_condition(rows: Mapping[str, Array]) -> dict[str, Array]:
    """The rows with one number for each image and condition."""
    return {name: values for name, values in rows.items() if name != "outcomes"}


def _curve(curve: AbstainCurve) -> dict[str, Any]:
    some = np.unique(
        np.linspace(0, len(curve.kept) - 1, min(CURVE_POINTS, len(curve.kept))).round().astype(int)
    )
    return {
        "kept": curve.kept[some].tolist(),
        "error": curve.error[some].tolist(),
        "oracle": curve.oracle[some].tolist(),
        "random": curve.random,
        "area": curve.area,
        "oracle_area": curve.oracle_area,
        "gain": curve.gain,
    }


def _mean_and_error(values: Array) -> dict[str, float | None]:
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "se": error}

"""Box scores of a run as they would be of photographs whose boxes cover as much as the paper's,
beside what the paper prints.

    python benchmarks/calibrated.py RUN [--box_fraction 0.167] [--data SHARDS [--right 0.65]]

Larger boxes raise every score; that of a random map is their mean share of the picture, which
the paper prints so. The calibrated mean is the survey statistician's regression estimate (Deville
and Särndal 1992): weights linear in the share, under which ours has the paper's mean. Its standard
error is of the weighted residuals.

With the run's photographs, also of those that the network gets right and wrong, and of both mixed
as if it got so many right.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

import numpy as np
from rightly_classified import right_and_wrong
from timing import show

from lit_iba.data import ShardIndex
from lit_iba.report import read_run
from lit_iba.report.tables import published_for
from lit_iba.view.session import run_classifier


def calibrated(y: np.ndarray, known: np.ndarray, wanted: float) -> tuple[float, float]:
    """Mean of ``y`` (N,) and its standard error, for a sample in which ``known`` (N,) has the mean
    ``wanted``.
    """
    centred = known - known.mean()
    spread = float((centred**2).sum())
    weights = 1 / len(y) + centred * (wanted - known.mean()) / spread
    left = y - y.mean() - centred * float((centred * y).sum()) / spread
    error = math.sqrt(float((weights**2 * left**2).sum()) * len(y) / (len(y) - 2))
    return float(weights @ y), error


def numbers(
    quantities: Mapping[str, Mapping[str, float]], only: set[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and shares of the boxes of the images that have a score, each (N,)."""
    scores, boxes = quantities["score"], quantities["box_fraction"]
    keys = [key for key, value in scores.items() if math.isfinite(value)]
    keys = [key for key in keys if only is None or key in only]
    return np.array([scores[key] for key in keys]), np.array([boxes[key] for key in keys])


def mixed(
    right: tuple[float, float], wrong: tuple[float, float], share: float
) -> tuple[float, float]:
    """Mean and standard error of two parts, the first with that share of the whole."""
    return (
        share * right[0] + (1 - share) * wrong[0],
        math.hypot(share * right[1], (1 - share) * wrong[1]),
    )


def main() -> None:
    """Print a table a metric that has boxes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run")
    parser.add_argument("--box_fraction", type=float, default=0.167, help="the paper's mean share")
    parser.add_argument("--data", help="the run's, to tell right from wrong")
    parser.add_argument("--right", type=float, help="the share to mix them by; by default as is")
    given = parser.parse_args()
    run = read_run(given.run)
    parts: dict[str, set[str]] = {}
    if given.data:
        found = right_and_wrong(run_classifier(run, {}), ShardIndex.load(given.data))
        parts = dict(zip(("right", "wrong"), found, strict=True))
    for metric, explainers in run.rows.items():
        lines: list[dict[str, object]] = []
        for name, quantities in explainers.items():
            if "box_fraction" not in quantities:
                continue
            y, share = numbers(quantities)
            if len(y) < 3 or np.ptp(share) == 0:
                parser.error(
                    f"{len(y)} photographs of {name} have a score and a box; a regression wants 3,"
                    " with boxes of more than one size: give a run of more"
                )
            mean, error = calibrated(y, share, given.box_fraction)
            printed = published_for(run, metric, name)[0]
            line: dict[str, object] = {
                "explainer": name,
                "images": len(y),
                "all": f"{y.mean():.3f} ± {y.std(ddof=1) / len(y) ** 0.5:.3f}",
                "calibrated": f"{mean:.3f} ± {error:.3f}",
            }
            if parts:
                each = {part: numbers(quantities, keys) for part, keys in parts.items()}
                for part, both in each.items():
                    if len(both[0]) < 3 or np.ptp(both[1]) == 0:
                        parser.error(
                            f"{len(both[0])} of the {len(y)} photographs are classified {part}, and"
                            " a regression wants 3, with boxes of more than one size; leave --data"
                            " out, or give a run of more"
                        )
                of = {part: calibrated(*both, given.box_fraction) for part, both in each.items()}
                for part, both in each.items():
                    line[f"{part} ({len(both[0])})"] = f"{of[part][0]:.3f} ± {of[part][1]:.3f}"
                share = len(each["right"][0]) / len(y) if given.right is None else given.right
                mean, error = mixed(of["right"], of["wrong"], share)
                line[f"mixed, {share:.0%} right"] = f"{mean:.3f} ± {error:.3f}"
            line["published"] = printed.value if printed else ""
            line["errors off"] = (
                f"{(mean - printed.value) / error:+.1f}" if printed and error else ""
            )
            lines.append(line)
        if lines:
            show(metric, lines)


if __name__ == "__main__":
    main()

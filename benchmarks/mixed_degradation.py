"""Degradation as it would be of photographs that are classified rightly as often as the paper's, by
three readings of equation 9, beside what the paper prints.

    python benchmarks/mixed_degradation.py RUN WRONG [--right 0.761]

RUN explains the labels. WRONG is a run with ``target: predicted`` on photographs that the network
gets wrong (``misclassified_shard.py``). The readings: the label's probability, scaled by the
label's mean (``label``) or by the mean of the highest probability (``t1 of top-1``), or the
probability of the predicted class, which is the highest one (``predicted``). Means of the rightly
and of the wrongly classified are mixed before they are scaled, since t1 and b are of all images.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
from timing import show

from lit_iba.report import read_run
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.tables import published_for
from lit_iba.resumable.store import ShardStore


def right_keys(run: RunFolder) -> set[str]:
    """Images whose label is what the network predicts, as the run's heatmaps say."""
    name, found = next(iter(run.explainers)), set[str]()
    for path in (run.path / "heatmaps" / name).glob("*.safetensors"):
        tensors, metadata = ShardStore(run.path / "heatmaps").read(name, path.stem)
        keys = json.loads(metadata["keys"])
        found |= {k for k, hit in zip(keys, tensors["agrees"].tolist(), strict=True) if hit}
    return found


class Part:
    """Unscaled integrals, and the probabilities at both ends, of some of a run's images."""

    def __init__(self, run: RunFolder, metric: str, name: str, keys: set[str] | None) -> None:
        rows, extra = run.rows[metric][name], run.results[metric][name].extra
        used = [key for key in rows["score"] if keys is None or key in keys]
        scale = extra["t1"] - extra["degraded_probability"]
        self.area = np.array([rows["score"][key] for key in used]) * scale
        self.whole = float(np.mean([rows["probability"][key] for key in used]))
        self.gone = float(np.mean([rows["degraded_probability"][key] for key in used]))


def mixed(
    right: Part, wrong: Part, share: float, whole: float | None = None
) -> tuple[float, float]:
    """Score and standard error; ``whole`` is what t1 is of the wrongly classified, if it is not
    the mean of theirs.
    """
    t1 = share * right.whole + (1 - share) * (wrong.whole if whole is None else whole)
    scale = t1 - share * right.gone - (1 - share) * wrong.gone
    mean = share * right.area.mean() + (1 - share) * wrong.area.mean()
    errors = [
        part * side.area.std(ddof=1) / math.sqrt(len(side.area))
        for part, side in ((share, right), (1 - share, wrong))
    ]
    return float(mean / scale), math.hypot(*errors) / scale


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run")
    parser.add_argument("wrong")
    parser.add_argument("--metric", default="degradation_14")
    parser.add_argument("--right", type=float, default=0.761, help="the paper's top-1 accuracy")
    given = parser.parse_args()
    run, other = read_run(given.run), read_run(given.wrong)
    hits = right_keys(run)
    lines: list[dict[str, object]] = []
    for name in run.explainers:
        if name not in other.explainers:
            continue
        right = Part(run, given.metric, name, hits)
        keys = set(run.rows[given.metric][name]["score"]) - hits
        label = Part(run, given.metric, name, keys)
        predicted = Part(other, given.metric, name, None)
        printed = published_for(run, given.metric, name)[0]
        readings = {
            f"right alone ({len(right.area)})": mixed(right, right, 1.0),
            "label": mixed(right, label, given.right),
            "t1 of top-1": mixed(right, label, given.right, predicted.whole),
            f"predicted ({len(predicted.area)})": mixed(right, predicted, given.right),
        }
        scores = {
            reading: f"{mean:.3f} ± {error:.3f}" for reading, (mean, error) in readings.items()
        }
        lines.append({"explainer": name, **scores, "published": printed.value if printed else ""})
    show(given.metric, lines)


if __name__ == "__main__":
    main()

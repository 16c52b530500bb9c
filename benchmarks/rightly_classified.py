"""Paired tests of a run on those of its photographs alone whose label the network predicts.

    python benchmarks/rightly_classified.py RUN --data SHARDS --pairs '[[a, b], ...]'

Names of explainers may have ``*``, as in ``evaluate.py report``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

import torch
import yaml
from rich.progress import track
from timing import show

from lit_iba import FrozenClassifier
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.report import read_run
from lit_iba.report.quantities import paired
from lit_iba.view.session import run_classifier

SHOWN = ("quantity", "first", "second", "images", "mean_difference", "standard_error", "p_value")


@torch.inference_mode()
def right_and_wrong(classifier: FrozenClassifier, data: ShardIndex) -> tuple[set[str], set[str]]:
    """Keys of the images whose label is predicted, and of those whose label is not; what cannot
    be decoded is neither.
    """
    right, wrong = set[str](), set[str]()
    for shard in track(data.shards, "predict"):
        for batch in shard_batches(shard, classifier.preprocessing):
            predicted = classifier(classifier.images(batch["picture"])).argmax(dim=1).cpu()
            for i, key in enumerate(batch["key"]):
                if batch["weight"][i]:
                    (right if predicted[i] == batch["label"][i] else wrong).add(key)
    return right, wrong


def main() -> None:
    """Print a table a metric."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=yaml.safe_load, required=True)
    parser.add_argument("--quantities", nargs="+", default=["e_minus", "delta_e_minus"])
    given = parser.parse_args()
    run = read_run(given.run)
    right, _ = right_and_wrong(run_classifier(run, {}), ShardIndex.load(given.data))
    rows = {
        metric: {
            explainer: {
                quantity: {key: value for key, value in values.items() if key in right}
                for quantity, values in quantities.items()
                if quantity in given.quantities
            }
            for explainer, quantities in explainers.items()
        }
        for metric, explainers in run.rows.items()
    }
    tested = [asdict(row) for row in paired(replace(run, rows=rows), given.pairs)]
    for metric in rows:
        lines = [{k: row[k] for k in SHOWN} for row in tested if row["metric"] == metric]
        show(f"{metric}, rightly classified", lines)


if __name__ == "__main__":
    main()

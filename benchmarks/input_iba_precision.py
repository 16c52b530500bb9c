"""What bfloat16 does to InputIBA: its time, and how alike its masks are to those of float32, beside
how alike two seeds in float32 are. On real photographs (see boxed_photographs.py).

    python benchmarks/input_iba_precision.py --weights W.safetensors --data "shards-{0..3}.tar"
        --statistics "train-{0..3}.tar" [--images 8] [--side 112] [--gan none]
"""

from __future__ import annotations

import argparse
import time
from typing import Literal

import torch
from boxed_photographs import Photographs, arguments, at_side, chosen, of_statistics
from timing import report
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.explainer import smoothed
from lit_iba.input_iba.explainer import InputIBA
from lit_iba.metrics import build_metric
from lit_iba.statistics import INPUT

RUNS: tuple[tuple[Literal["float32", "bf16"], int], ...] = (
    ("float32", 0),
    ("float32", 1),
    ("bf16", 0),
    ("bf16", 1),
)


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of maps (N, H, W) over the pixels, image by image, (N,)."""
    return torch.stack(
        [torch.corrcoef(torch.stack(pair).flatten(1))[0, 1] for pair in zip(a, b, strict=True)]
    )


def boxes(classifier: FrozenClassifier, photos: Photographs, maps: Tensor) -> Tensor:
    """The box score of every photograph, (N,)."""
    metric = build_metric("bounding_box", {})
    given = (classifier, photos.images, photos.labels, maps)
    rows = metric.judge(*given, object_mask=photos.object_mask, keys=photos.keys)
    return metric.scores(rows)["score"].double()


def main(a: argparse.Namespace) -> None:
    """Fit every photograph in both precisions with two seeds, and compare the masks."""
    classifier = at_side(a.network, a.weights, a.side)
    photos = chosen(classifier, a.data, a.images)
    pictures = list(of_statistics(classifier, a.statistics))
    statistics, of_input = (
        FeatureStatistics.estimate(classifier, layer, pictures) for layer in (a.layer, INPUT)
    )
    print(photos.chosen_on)
    rows: list[dict[str, object]] = []
    reference: Tensor | None = None
    for precision, seed in RUNS:
        explainer = InputIBA(
            classifier,
            a.layer,
            statistics,
            of_input,
            gan=a.gan,
            smooth=0,
            seed=seed,
            precision=precision,
        )
        begun = time.process_time()
        maps = torch.cat(
            [
                explainer.attribute(
                    photos.images[i : i + 1], photos.labels[i : i + 1], keys=[key]
                ).values
                for i, key in enumerate(photos.keys)
            ]
        ).float()
        seconds = (time.process_time() - begun) / len(photos.keys)
        reference = maps if reference is None else reference
        found = {
            "correlation with the first run": alike(maps, reference),
            "the same, both blurred as by default": alike(
                smoothed(maps, 4.0), smoothed(reference, 4.0)
            ),
            "box": boxes(classifier, photos, maps),
        }
        row: dict[str, object] = {
            "mask": f"{precision}, seed {seed}",
            "CPU s an image": seconds,
        }
        for name, values in found.items():
            row[name] = float(values.mean())
            row[f"{name} ±"] = float(values.std()) / len(values) ** 0.5
        rows.append(row)
    report(f"input_iba_precision{'' if a.side == 112 else f'_{a.side}'}", rows)


if __name__ == "__main__":
    parser = arguments(__doc__, images=8)
    parser.add_argument("--gan", default="none")
    main(parser.parse_args())

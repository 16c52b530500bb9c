"""Whether the photograph itself can stand in for a data set: Per-Sample IBA with the noise of three
statistics of its layer.

Those of every element over a data set are the paper's. Those pooled over the positions of a channel
need no data set, and may be of the photograph that is explained. The same random numbers are used
for all three, so that nothing but the statistics differs. Where the box lies is no matter of
statistics, so random and centred maps stand beside them.

    python benchmarks/pooled_statistics.py --network resnet50 --weights resnet50.safetensors
        --data "shards-{0..3}.tar" --statistics "train-{0..3}.tar" [--images 100] [--side 224]
"""

from __future__ import annotations

import argparse
import time

import torch
from boxed_photographs import Photographs, arguments, at_side, chosen, of_statistics
from scipy.stats import spearmanr
from timing import report
from torch import Tensor
from tqdm import tqdm

from lit_iba import FeatureStatistics, FrozenClassifier, build_explainer
from lit_iba.iba import PerSampleIBA
from lit_iba.metrics.bounding_box import share_inside

ELEMENT, OTHERS, ITSELF = (
    "each element, over a data set",
    "pooled, over a data set",
    "pooled, of the photograph",
)


def maps_of(
    classifier: FrozenClassifier, photos: Photographs, a: argparse.Namespace
) -> dict[str, list[Tensor]]:
    """Heatmaps (H, W) in bits by what the statistics are of, an entry a photograph."""
    element = FeatureStatistics.estimate(
        classifier, a.layer, of_statistics(classifier, a.statistics)
    )
    kinds = {ELEMENT: element, OTHERS: element.pooled(classifier.layout(a.layer))}
    found: dict[str, list[Tensor]] = {ELEMENT: [], OTHERS: [], ITSELF: []}
    for i, key in enumerate(tqdm(photos.keys, desc="photographs")):
        image, label = photos.images[i : i + 1], photos.labels[i : i + 1]
        itself = FeatureStatistics.estimate(classifier, a.layer, image, pooled=True)
        for kind, statistics in (kinds | {ITSELF: itself}).items():
            explainer = PerSampleIBA(classifier, a.layer, statistics, copies=a.copies)
            found[kind].append(explainer.attribute(image, label, keys=[key]).values[0])
    return found


def main(a: argparse.Namespace) -> None:
    """Measure and report."""
    classifier = at_side(a.network, a.weights, a.side)
    photos = chosen(classifier, a.data, a.images, predicted=True)
    print(f"{photos.chosen_on}; the predicted class at {a.layer}, {a.copies} copies of the noise")
    begun = time.process_time()
    maps = maps_of(classifier, photos, a)
    print(f"{(time.process_time() - begun) / len(photos.keys):.1f} s of processor time an image")
    for name in ("random", "centre"):
        control = build_explainer(name, classifier, {})
        maps[name] = list(control.attribute(photos.images, photos.labels, keys=photos.keys).values)
    boxes = {
        kind: share_inside(torch.stack(values), photos.object_mask).double()
        for kind, values in maps.items()
    }
    root = len(photos.keys) ** 0.5
    rows: list[dict[str, object]] = []
    for kind, values in maps.items():
        more = boxes[kind] - boxes[ELEMENT]
        alike = torch.tensor(
            [
                spearmanr(one.flatten(), other.flatten()).statistic
                for one, other in zip(values, maps[ELEMENT], strict=True)
            ]
        )
        rows.append(
            {
                "statistics": kind,
                "box": float(boxes[kind].mean()),
                "box ±": float(boxes[kind].std()) / root,
                "more than the paper's": float(more.mean()),
                "more ±": float(more.std()) / root,
                "rank correlation with the paper's": float(alike.mean()),
                "least correlation": float(alike.min()),
                "bits an image": float(torch.stack(values).sum(dim=(1, 2)).mean()),
            }
        )
    report(f"pooled_statistics_{a.network.rpartition(':')[2]}", rows)


if __name__ == "__main__":
    parser = arguments(__doc__, images=100)
    parser.set_defaults(network="resnet50", side=224)
    parser.add_argument("--copies", type=int, default=10)
    main(parser.parse_args())

"""Whether detached gates make better maps of a network that is not piecewise linear, or only sums
that add up.

The box score of activity attributions with gates differentiated and detached, on the same
photographs, beside Grad-CAM and maps that know nothing.

    python benchmarks/detached_gates.py --network my_models:vit --weights vit.safetensors
        --data "shards-{0..1}.tar" --statistics "" [--images 69] [--side 224]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from boxed_photographs import arguments, at_side, chosen
from timing import report
from torch import Tensor

from lit_iba import build_explainer
from lit_iba.metrics.bounding_box import share_inside

SETTINGS: dict[str, dict[str, Any]] = {
    "all layers, unsigned": {},
    "all layers, signed": {"signed": True},
    "top 4 layers": {"layers": 4},
    "the input": {"layers": ["input"]},
}


def main(a: argparse.Namespace) -> None:
    """Measure and report."""
    classifier = at_side(a.network, a.weights, a.side)
    photos = chosen(classifier, a.data, a.images, predicted=True)
    print(photos.chosen_on)

    def boxes(name: str, settings: dict[str, Any]) -> tuple[Tensor, float]:
        explainer = build_explainer(name, classifier, settings)
        heatmap = explainer.attribute(photos.images, photos.labels, keys=photos.keys)
        worst = torch.nan if heatmap.completeness is None else float(heatmap.completeness.max())
        return share_inside(heatmap.values, photos.object_mask).double(), worst

    root = len(photos.keys) ** 0.5
    rows: list[dict[str, object]] = []

    def add(label: str, scores: Tensor, plain: Tensor, worst: float) -> None:
        more = scores - plain
        rows.append(
            {
                "map": label,
                "box": float(scores.mean()),
                "box ±": float(scores.std()) / root,
                "more than differentiated": float(more.mean()),
                "more ±": float(more.std()) / root,
                "largest error of completeness": worst,
            }
        )

    for label, settings in SETTINGS.items():
        plain, worst = boxes("activity", settings)
        add(f"activity, {label}", plain, plain, worst)
        scores, worst = boxes("activity", settings | {"gates": "detached"})
        add(f"activity, {label}, detached", scores, plain, worst)
    for name in ("grad_cam", "random", "centre"):
        scores, worst = boxes(name, {})
        add(name, scores, scores, worst)
    report(f"detached_gates_{a.network.rpartition(':')[2]}", rows)


if __name__ == "__main__":
    parser = arguments(__doc__, images=100)
    parser.set_defaults(side=224)
    main(parser.parse_args())

"""Which output of InputIBA is the better map: the mask Lambda, blurred or not, or bits, beyond the
prior or in all.

All outputs are of one run of the three stages at the paper's settings, so that nothing but the
output differs; controls that know nothing and two other methods stand beside them. On real
photographs (see boxed_photographs.py), at a size that two cores can afford.

    python benchmarks/input_iba_outputs.py --weights resnet18.safetensors --data "shards-{0..3}.tar"
        --statistics "train-{0..3}.tar" [--images 24] [--side 112] [--gan wgan]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from boxed_photographs import Photographs, arguments, at_side, chosen, of_statistics
from timing import report
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, build_explainer
from lit_iba.explainer import smoothed
from lit_iba.input_iba.explainer import InputIBA
from lit_iba.metrics import build_metric
from lit_iba.randomness import sample_generators
from lit_iba.statistics import INPUT

BLURS = (1.0, 2.0, 4.0, 8.0)  # pixels of a picture of 224
CURVE = {"preset": "input_iba", "pixels_per_step": 224}
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "EHR": ("ehr", {}),
    "EHR, published form": ("ehr", {"preset": "reference"}),
    "box": ("bounding_box", {}),
    "insertion": ("insertion", CURVE),
    "deletion": ("deletion", CURVE),
}


def outputs_of(explainer: InputIBA, photographs: Photographs) -> tuple[dict[str, Tensor], float]:
    """Every output of one run, (N, H, W) each, and its seconds of processor time an image."""
    images = photographs.images
    begun = time.process_time()
    generators = sample_generators(0, photographs.keys, images.device)
    found = explainer.find_stages(images, photographs.labels, generators)
    seconds = (time.process_time() - begun) / len(images)
    mask, bits = found.mask.keep.mean(dim=1), found.mask.bits.sum(dim=1)
    maps = {
        "InputIBA, mask": mask,
        **{f"InputIBA, mask, smooth {blur:g}": smoothed(mask, blur) for blur in BLURS},
        "InputIBA, sigmoid(alpha)": torch.sigmoid(found.mask.alpha).mean(dim=1),
        "InputIBA, bits": bits,
        "InputIBA, bits, smooth 4": smoothed(bits, 4.0),
        "InputIBA, bits in all": found.mask.total_bits.sum(dim=1),
        "lambda_G": found.mask.prior_keep.mean(dim=1),
    }
    return maps, seconds


def others(
    classifier: FrozenClassifier, layer: str, statistics: FeatureStatistics, photos: Photographs
) -> dict[str, Tensor]:
    """Maps of other methods and of the controls, (N, H, W)."""
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "IBA": ("per_sample_iba", {"layer": layer, "statistics": statistics}),
        "Grad-CAM": ("grad_cam", {}),
        "random": ("random", {}),
        "constant": ("constant", {}),
        "centre": ("centre", {}),
    }
    found = {}
    for label, (name, settings) in wanted.items():
        explainer = build_explainer(name, classifier, settings)
        heatmap = explainer.attribute(photos.images, photos.labels, keys=photos.keys)
        found[label] = heatmap.values
    return found


def judged(classifier: FrozenClassifier, photos: Photographs, maps: Tensor) -> dict[str, Tensor]:
    """The score of every photograph by every metric, (N,) each."""
    found = {}
    for label, (name, settings) in METRICS.items():
        metric = build_metric(name, settings)
        arguments = (classifier, photos.images, photos.labels, maps)
        rows = metric.judge(*arguments, object_mask=photos.object_mask, keys=photos.keys)
        found[label] = metric.scores(rows)["score"].double()
    return found


def main(a: argparse.Namespace) -> None:
    """Measure and report."""
    classifier = at_side(a.network, a.weights, a.side)
    photos = chosen(classifier, a.data, a.images)
    pictures = list(of_statistics(classifier, a.statistics))
    statistics = FeatureStatistics.estimate(classifier, a.layer, pictures)
    explainer = InputIBA(
        classifier,
        a.layer,
        statistics,
        FeatureStatistics.estimate(classifier, INPUT, pictures),
        gan=a.gan,
        mask_learning_rate=a.mask_learning_rate,
        beta_input=a.beta_input,
    )
    print(photos.chosen_on)
    maps, seconds = outputs_of(explainer, photos)
    print(f"{seconds:.1f} s of processor time an image")
    maps |= others(classifier, a.layer, statistics, photos)
    scores = {label: judged(classifier, photos, values) for label, values in maps.items()}
    reference, root = scores["InputIBA, mask"], len(photos.keys) ** 0.5
    rows: list[dict[str, object]] = []
    for label, found in scores.items():
        row: dict[str, object] = {"map": label}
        for metric, values in found.items():
            row[metric] = float(values.mean())
            row[f"{metric} ±"] = float(values.std()) / root
            less = values - reference[metric]
            row[f"{metric} - mask"] = float(less.mean())
            row[f"{metric} - mask ±"] = float(less.std()) / root
        rows.append(row)
    report("input_iba_outputs", rows)


if __name__ == "__main__":
    parser = arguments(__doc__, images=24)
    parser.add_argument("--gan", default="wgan")
    parser.add_argument("--mask_learning_rate", type=float, default=0.1)
    parser.add_argument("--beta_input", type=float, default=20.0)
    main(parser.parse_args())

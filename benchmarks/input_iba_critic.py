"""How closely the prior of InputIBA brings f(Z_G) to Z*, by distances that no critic is trained on,
and what it costs.

For real photographs and weights: before fitting, after the authors' published fit (its critic,
schedule and learning rates, aimed at the paper's Z* and at their own stand-in for it), and after
ours. Distances are between standardised features, so that 1 is a standard deviation of an element:
sliced Wasserstein (256 random directions; "floor" is that of two draws of Z*), energy distance,
root mean square difference of means; and the probability of the class behind both.

    python benchmarks/input_iba_critic.py --weights resnet18.safetensors --data shards.tar [--images
    2] [--side 224]
        [--skip-published]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import report
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.iba.bottleneck import channels_last
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.input_iba.critic import Convolution, CriticDesign
from lit_iba.input_iba.explainer import InputIBA
from lit_iba.input_iba.generator import (
    CriticView,
    InputPrior,
    LatentBottleneck,
    fit_prior,
    starting_logits,
)
from lit_iba.input_iba.settings import PRESETS, InputIBASettings, with_changes
from lit_iba.randomness import normal_copies, sample_generators

DRAWS, DIRECTIONS = 48, 256
OURS, THEIRS = PRESETS["default"], PRESETS["reference"]
CONVOLUTIONAL = CriticDesign((Convolution(16, 1), Convolution(16, 3, 2, 1)))
FITS: dict[str, tuple[InputIBASettings, CriticDesign | None]] = {
    "ours": (OURS, None),
    "ours, 60 steps": (with_changes(OURS, {"generator_steps": 60}), None),
    "ours, clipped weights": (with_changes(OURS, {"lipschitz": "clip"}), None),
    "ours, convolutional critic": (OURS, CONVOLUTIONAL),
    "published, at its own Z*": (THEIRS, None),
    "published, at the paper's Z*": (
        with_changes(THEIRS, {"z_star_mask": "lambda", "z_star_noise": "estimated"}),
        None,
    ),
}


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of (S, elements), per root of the number of elements."""
    s = len(x)
    within = (torch.cdist(x, x).sum() + torch.cdist(y, y).sum()) / (s * (s - 1))
    return (2 * torch.cdist(x, y).mean() - within) / x.shape[1] ** 0.5


def distances(
    prior: InputPrior,
    images: Tensor,
    targets: Tensor,
    masked: MaskedFeature,
    head: Callable[[Tensor], Tensor],
) -> dict[str, object]:
    """Means over images."""
    count = len(images)
    generators = sample_generators(99, [str(i) for i in range(count)], images.device)
    view, latent = CriticView(masked, True), LatentBottleneck(masked, OURS, generators)
    with torch.no_grad():
        drawn = [
            prior.sample(images, normal_copies(generators, 8, images.shape[1:])).flatten(0, 1)
            for _ in range(DRAWS // 8)
        ]
        fake = torch.cat([head(z).unflatten(0, (8, count)) for z in drawn])
        real, again = latent.sample(DRAWS), latent.sample(DRAWS)
        behind = [
            masked.tail(f.flatten(0, 1), ()).softmax(dim=1).unflatten(0, (DRAWS, count))
            for f in (fake, real)
        ]
        probability = [p.mean(dim=0)[torch.arange(count), targets].mean() for p in behind]
        x, y, floor = (view(f).flatten(2) for f in (fake, real, again))
        directions = F.normalize(
            torch.randn(x.shape[2], DIRECTIONS, generator=torch.Generator().manual_seed(0)), dim=0
        )
        a, b, c = ((f @ directions).sort(dim=0)[0] for f in (x, y, floor))
        energy = torch.stack([energy_distance(x[:, i], y[:, i]) for i in range(count)]).mean()
        return {
            "sliced Wasserstein": float((a - b).abs().mean()),
            "floor": float((c - b).abs().mean()),
            "energy": float(energy),
            "means": float((x.mean(dim=0) - y.mean(dim=0)).square().mean(dim=1).sqrt().mean()),
            "p(class | f(Z_G))": float(probability[0]),
            "p(class | Z*)": float(probability[1]),
            "mean lambda_G": float(prior.masks()[0].mean()),
        }


def main(
    network: str, weights: str, layer: str, data: str, count: int, side: int, skip: bool
) -> None:
    """Measure and report."""
    classifier = FrozenClassifier(network, weights)
    pictures = [
        b
        for s in ShardIndex.load(data).shards
        for b in shard_batches(s, classifier.preprocessing, 64)
    ][:2]
    everything = classifier.images(torch.cat([b["picture"][b["weight"] > 0] for b in pictures]))
    everything = F.interpolate(everything, size=(side, side), mode="area")
    labels = torch.cat([b["label"][b["weight"] > 0] for b in pictures])
    with torch.no_grad():
        probabilities = classifier(everything).softmax(dim=1)[torch.arange(len(labels)), labels]
    best = probabilities.topk(count).indices
    images, targets = everything[best], labels[best]
    statistics = FeatureStatistics.estimate(classifier, layer, everything)
    explainer = InputIBA(
        classifier, layer, statistics, FeatureStatistics.estimate(classifier, "input", [everything])
    )
    keys = [str(i) for i in range(count)]
    masked = explainer.feature_iba.masked_feature(
        images, targets, sample_generators(0, keys, images.device)
    )
    noise = explainer.input_noise(images)
    rows: list[dict[str, object]] = []

    def head(z: Tensor) -> Tensor:
        return explainer.feature_iba.split.folded_head(channels_last(z))[0]

    def row(name: str, prior: InputPrior, seconds: float) -> None:
        rows.append(
            {
                "prior": name,
                "CPU s an image": seconds / count,
                **distances(prior, images, targets, masked, head),
            }
        )
        report("input_iba_critic", rows)

    spread = noise.std.square().mean(dim=(1, 2), keepdim=True).sqrt().expand(count, -1, -1, -1)
    mean = noise.mean.mean(dim=(1, 2), keepdim=True).expand(count, -1, -1, -1)
    start = InputPrior(starting_logits(masked, (side, side), "capped_bits"), mean, spread)
    row("start: bits a pixel as logits, capped", start, 0.0)
    for name, (settings, design) in FITS.items():
        if skip and name.startswith("published"):
            continue
        begun = time.process_time()
        generators = sample_generators(1, keys, images.device)
        fitted = fit_prior(
            start,
            images,
            settings.prior.neighbourhood * noise.std,
            masked,
            head,
            settings,
            generators,
            design=design,
        )
        row(name, fitted, time.process_time() - begun)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--skip-published", action="store_true")
    a = parser.parse_args()
    main(a.network, a.weights, a.layer, a.data, a.images, a.side, a.skip_published)

"""How closely the prior of InputIBA brings f(Z_G) to Z*, by distances that no critic is trained on,
what it costs, and what is left of lambda_G as a map.

For real photographs (see boxed_photographs.py) and weights: before fitting, after the authors'
published fit (its critic, schedule and learning rates, aimed at the paper's Z* and at their own
stand-in for it), and after ours. Distances are between standardised features, so that 1 is a
standard deviation of an element: sliced Wasserstein (256 random directions; "floor" is that of two
draws of Z*), energy distance, root mean square difference of means; and the probability of the
class behind both. A fit may bring f(Z_G) closer and lose the object: lambda_G's own box score and
heat ratio stand beside, and its correlation with where it began, with maps that know nothing as
controls.

    python benchmarks/input_iba_critic.py --weights resnet18.safetensors --data "shards-{0..3}.tar"
        --statistics "train-{0..3}.tar" [--images 16] [--side 112] [--fits NAME ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from boxed_photographs import Photographs, arguments, at_side, chosen, of_statistics
from timing import report
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, build_explainer
from lit_iba.iba.bottleneck import channels_last
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.input_iba.critic import Convolution, CriticDesign
from lit_iba.input_iba.explainer import InputIBA, join
from lit_iba.input_iba.generator import (
    CriticView,
    InputPrior,
    LatentBottleneck,
    fit_prior,
)
from lit_iba.input_iba.settings import PRESETS, InputIBASettings, with_changes
from lit_iba.metrics.bounding_box import share_inside
from lit_iba.metrics.effective_heat_ratio import EffectiveHeatRatio
from lit_iba.randomness import normal_copies, sample_generators
from lit_iba.statistics import INPUT

DRAWS, DIRECTIONS = 48, 256
OURS, THEIRS = PRESETS["default"], PRESETS["reference"]
CONVOLUTIONAL = CriticDesign((Convolution(16, 1), Convolution(16, 3, 2, 1)))
FITS: dict[str, tuple[InputIBASettings, CriticDesign | None]] = {
    "ours": (OURS, None),
    "ours, mask learning rate 0.3": (with_changes(OURS, {"mask_learning_rate": 0.3}), None),
    "ours, 60 steps": (with_changes(OURS, {"generator_steps": 60}), None),
    "ours, clipped weights": (with_changes(OURS, {"lipschitz": "clip"}), None),
    "ours, convolutional critic": (OURS, CONVOLUTIONAL),
    "published, at its own Z*": (THEIRS, None),
    "published, at the paper's Z*": (
        with_changes(THEIRS, {"z_star_mask": "lambda", "z_star_noise": "estimated"}),
        None,
    ),
}
CONTROLS = ("random", "constant", "centre")


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
    view, latent = CriticView(masked, True), LatentBottleneck(masked, OURS.latent, generators)
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


def as_a_map(classifier: FrozenClassifier, maps: Tensor, photos: Photographs) -> dict[str, object]:
    """Box score and effective heat ratio of maps (N, H, W), with standard errors."""
    metric, root = EffectiveHeatRatio(), len(maps) ** 0.5
    boxed = {"object_mask": photos.object_mask}
    ehr = metric.scores(metric.judge(classifier, photos.images, photos.labels, maps, **boxed))
    found = {"box": share_inside(maps, photos.object_mask), "EHR": ehr["score"]}
    means = {name: float(values.double().mean()) for name, values in found.items()}
    errors = {f"{n} ±": float(values.double().std()) / root for n, values in found.items()}
    return {**means, **errors}


def correlation(maps: Tensor, others: Tensor) -> float:
    """Mean over images of the correlation of maps (N, H, W)."""
    both = [torch.stack([a, b]).flatten(1) for a, b in zip(maps, others, strict=True)]
    return float(torch.stack([torch.corrcoef(pair)[0, 1] for pair in both]).mean())


def main(a: argparse.Namespace) -> None:
    """Measure and report."""
    classifier = at_side(a.network, a.weights, a.side)
    photos = chosen(classifier, a.data, a.images)
    print(photos.chosen_on)
    images, targets, count = photos.images, photos.labels, len(photos.keys)
    pictures = list(of_statistics(classifier, a.statistics))
    explainer = InputIBA(
        classifier,
        a.layer,
        FeatureStatistics.estimate(classifier, a.layer, pictures),
        FeatureStatistics.estimate(classifier, INPUT, pictures),
    )
    masked = explainer.feature_iba.masked_feature(
        images, targets, sample_generators(0, photos.keys, images.device)
    )
    noise = explainer.input_noise(images)
    start = explainer.starting_prior(masked, noise)
    began = start.masks()[0].mean(dim=1)
    rows: list[dict[str, object]] = []

    def head(z: Tensor) -> Tensor:
        return explainer.feature_iba.split.folded_head(channels_last(z))[0]

    def row(name: str, prior: InputPrior, seconds: float) -> None:
        keep = prior.masks()[0].mean(dim=1)
        rows.append(
            {
                "prior": name,
                "CPU s an image": seconds / count,
                **distances(prior, images, targets, masked, head),
                **as_a_map(classifier, keep, photos),
                "correlation with the start": correlation(keep, began),
            }
        )

    row("start: bits a pixel as logits, capped", start, 0.0)
    for name in a.fits:
        settings, design = FITS[name]
        begun = time.process_time()
        # As the explainer does it on a CPU: one image after the other, to bound the memory.
        fitted = []
        for i in range(count):
            one = slice(i, i + 1)
            generators = sample_generators(1, photos.keys[one], images.device)
            alone = explainer.feature_iba.masked_feature(images[one], targets[one], generators)
            spread = settings.prior.neighbourhood * noise.std
            at = explainer.starting_prior(alone, noise)
            given = (at, images[one], spread, alone, head, settings, generators)
            fitted.append(fit_prior(*given, design=design))
        row(name, join(fitted), time.process_time() - begun)
    for name in CONTROLS:
        control = build_explainer(name, classifier)
        maps = control.attribute(images, targets, keys=photos.keys).values
        nothing = dict.fromkeys(rows[0])
        rows.append(nothing | {"prior": name, **as_a_map(classifier, maps, photos)})
    report("input_iba_critic", rows)


if __name__ == "__main__":
    parser = arguments(__doc__, images=16)
    parser.add_argument("--fits", nargs="+", choices=list(FITS), default=list(FITS))
    main(parser.parse_args())

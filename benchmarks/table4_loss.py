"""Per-Sample IBA with the information that table 4 of IBA was made with, to see what that explains.

The authors' code before the camera-ready paper took 1 - lambda for the variance of Z, which is
(1 - lambda)^2: ln(1 - lambda) counts half. Their masks were optimised with that, too. Run from this
folder's parent with ``--explainers '{"mine": {"explainer": "benchmarks.table4_loss.EarlierLoss",
"layer": "layer2"}}'``; the command and what came of it stand in docs/reproduction/iba_figures.md.

As a program, it follows that information through the updates, of photographs that the network gets
right and of others, and of the two mixed as in the paper's validation set:

python benchmarks/table4_loss.py --weights FILE --data SHARDS [--images 8] [--betas 0.01 0.1 1 10]
"""

from __future__ import annotations

import argparse

import torch
from rich.progress import track
from timing import report
from torch import Tensor

from lit_iba import FeatureStatistics, FrozenClassifier, PerSampleIBA
from lit_iba.data import ShardIndex
from lit_iba.iba.noise import NoiseModel
from lit_iba.randomness import sample_generators
from lit_iba.resumable import Selection

PRINTED = {0.01: 1.174, 0.1: 0.525, 1.0: 0.248, 10.0: 0.098, 100.0: 0.019}
UPDATES = (5, 6, 7, 8, 9, 10)


class EarlierLoss(PerSampleIBA):
    """The bottleneck whose loss is the earlier formula; its bits are of that formula, too."""

    def _information(self, r: Tensor, noise: NoiseModel, keep: Tensor, drop: Tensor) -> Tensor:
        mean = keep * (r - noise.mean) / noise.std
        return 0.5 * (mean.square() + drop - drop.log() - 1) * noise.active


class Followed(EarlierLoss):
    """The same, with the mean nats of each image before every update and after the last."""

    path: list[Tensor]

    def _information(self, r: Tensor, noise: NoiseModel, keep: Tensor, drop: Tensor) -> Tensor:
        nats = super()._information(r, noise, keep, drop)
        self.path.append(nats.detach().flatten(1).mean(dim=1))
        return nats


def measure(
    classifier: FrozenClassifier,
    layer: str,
    data: ShardIndex,
    images: int,
    betas: list[float],
    accuracy: float,
) -> list[dict[str, object]]:
    """Rows of the table: mean and standard error after each number of updates."""
    chosen = [
        Selection().select(shard, shard.count, classifier.preprocessing) for shard in data.shards
    ]
    pictures = torch.cat([part.pictures for part in chosen])
    labels = torch.cat([part.labels for part in chosen])
    keys = [key for part in chosen for key in part.keys]
    batches = pictures.split(16)
    statistics = FeatureStatistics.estimate(
        classifier, layer, [classifier.images(part) for part in track(batches, "statistics")]
    )
    with torch.no_grad():
        logits = torch.cat(
            [classifier(classifier.images(part)) for part in track(batches, "right")]
        )
    probability = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    order, right = probability.argsort(), logits.argmax(dim=1) == labels
    groups = {"wrong": order[~right[order]], "right": order[right[order]]}
    rows = list[dict[str, object]]()
    for beta in betas:
        means, errors = [], []
        for name, members in groups.items():
            some = members[torch.linspace(0, len(members) - 1, images).round().long()].unique()
            iba = Followed(
                classifier, layer, statistics, preset="reference_paper", read_after="T", beta=beta
            )
            paths = []
            for part in track(some.split(1), f"{name}, beta {beta:g}"):
                iba.path = []
                generators = sample_generators(0, [keys[int(i)] for i in part], torch.device("cpu"))
                iba.explain(classifier.images(pictures[part]), labels[part], generators)
                paths.append(torch.stack(iba.path, dim=1))
            path = torch.cat(paths)
            means.append(path.mean(dim=0))
            errors.append(path.std(dim=0) / len(path) ** 0.5)
            rows.append({"target": name, "images": len(path), **_line(beta, means[-1], errors[-1])})
        shares = (1 - accuracy, accuracy)
        mixed = torch.stack(means), torch.stack(errors)
        mean = sum(share * part for share, part in zip(shares, mixed[0], strict=True))
        variance = sum((share * part) ** 2 for share, part in zip(shares, mixed[1], strict=True))
        rows.append(
            {"target": "mixed", "images": len(some) * 2, **_line(beta, mean, variance.sqrt())}
        )
    print(f"classified rightly: {float(right.float().mean()):.0%} of the photographs")
    return rows


def _line(beta: float, mean: Tensor, error: Tensor) -> dict[str, object]:
    after = {f"after {n}": f"{mean[n]:.3f} ± {error[n]:.3f}" for n in UPDATES}
    return {"beta": beta, **after, "printed": PRINTED.get(beta, "")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", default="IMAGENET1K_V1")
    parser.add_argument("--data", required=True)
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--images", type=int, default=8, help="of either kind")
    parser.add_argument("--right", type=float, default=0.761, help="share of the mixture")
    parser.add_argument("--betas", type=float, nargs="+", default=list(PRINTED))
    given = parser.parse_args()
    report(
        "table4_loss",
        measure(
            FrozenClassifier(given.model, given.weights),
            given.layer,
            ShardIndex.load(given.data),
            given.images,
            given.betas,
            given.right,
        ),
    )

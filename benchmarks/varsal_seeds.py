"""How alike the maps of trainings with other seeds are: what the sanity check of a trained encoder
is read against.

All encoders were trained for the same network, so that nothing but the seed differs. A map of the
same encoder for the next photograph stands beside them: what maps have in common that have nothing
to do with each other. Similarities are those of the metric ``sanity_check``. What all maps of an
encoder have in common is a preference for places, which no photograph asks for.

    python benchmarks/varsal_seeds.py --weights resnet18.safetensors --data "shards-{0..3}.tar"
        --checkpoints a.ckpt b.ckpt [--images 150] [--side 112]
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import torch
from boxed_photographs import at_side
from timing import report
from torch import Tensor

from lit_iba.data import ShardIndex, shard_batches
from lit_iba.metrics.sanity_check import rank_correlation, rescaled, ssim
from lit_iba.varsal import VarSal


def similarities(first: Tensor, second: Tensor) -> dict[str, str]:
    """Mean and standard error over the photographs of SSIM and of Spearman's correlation."""
    signs = [ssim(rescaled(first), rescaled(sign * second)) for sign in (1, -1)]
    found = {
        "SSIM": signs[0],
        "SSIM, either sign": signs[0].maximum(signs[1]),
        "Spearman": rank_correlation(first, second),
    }
    return {
        name: f"{float(values.mean()):.3f} ± {float(values.std() / len(values) ** 0.5):.3f}"
        for name, values in found.items()
    }


def main() -> None:
    """Print the similarities of each pair of encoders, of the means and of the deviations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoints", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--side", type=int, default=112)
    given = parser.parse_args()
    classifier = at_side(given.network, given.weights, given.side)
    encoders = [VarSal.load(path, classifier) for path in given.checkpoints]
    maps: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoders]
    left = given.images
    with torch.no_grad():
        for shard in ShardIndex.load(given.data).shards:
            for batch in shard_batches(shard, classifier.preprocessing, 25):
                images = classifier.images(batch["picture"][batch["weight"] > 0][:left])
                left -= len(images)
                for found, encoder in zip(maps, encoders, strict=True):
                    if len(images):
                        found.append(encoder.posterior(images))
    lines: list[dict[str, object]] = []
    for place, part in enumerate(("mean", "deviation")):
        of = [torch.cat([pair[place] for pair in found]) for found in maps]
        for a, b in combinations(range(len(of)), 2):
            names = f"{_name(given.checkpoints[a])} and {_name(given.checkpoints[b])}"
            lines.append({"of": part, "maps": names, **similarities(of[a], of[b])})
        for path, values in zip(given.checkpoints, of, strict=True):
            line = {"of": part, "maps": f"{_name(path)}, the next photograph's"}
            lines.append(line | similarities(values, values.roll(1, 0)))
    report("varsal_other_seeds", lines)
    means = zip(
        given.checkpoints, (torch.cat([p[0] for p in found]) for found in maps), strict=True
    )
    report(
        "varsal_maps_in_common",
        [{"maps": _name(path), **in_common(values)} for path, values in means],
    )


def in_common(maps: Tensor) -> dict[str, object]:
    """Of standardised maps (N, H, W), the mean's share of their variance, and the mean itself in
    eight strips from left to right.
    """
    centred = maps - maps.mean(dim=(1, 2), keepdim=True)
    mean = (centred / centred.std(dim=(1, 2), keepdim=True)).mean(dim=0)
    strips = [f"{float(strip.mean()):.2f}" for strip in mean.chunk(8, dim=1)]
    return {"share": f"{float(mean.var()):.2f}", "left to right": " ".join(strips)}


def _name(path: str) -> str:
    """The folder of the training: RUN/checkpoints/best.ckpt."""
    return Path(path).resolve().parent.parent.name


if __name__ == "__main__":
    main()

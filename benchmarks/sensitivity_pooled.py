"""Sensitivity-n of heatmaps that a run has stored, by the paper's text and by the authors' code.

    python benchmarks/sensitivity_pooled.py RUN --data SHARDS

By the text (equation 8), the Pearson correlation is of each image over its random sets, and the
mean over images is reported. The authors' program prints one correlation over the sets of all
images together, which also depends on how an image's whole map and whole drop go together with
those of other images, and so on the scale of the maps: theirs are from 0 to 1, except that
Occlusion's are the drops themselves. Its standard error is of a bootstrap over the images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import track
from timing import show
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.metrics import SensitivityN
from lit_iba.metrics.sensitivity_n import correlation, set_sizes
from lit_iba.perturbation import tile_sums
from lit_iba.report import read_run
from lit_iba.resumable.store import ShardStore
from lit_iba.view.session import run_classifier


def as_the_authors(heatmaps: Tensor, explainer: str) -> Tensor:
    """Maps (B, H, W) from 0 to 1 each; those of any Occlusion as they are."""
    heatmaps = heatmaps.float()
    if explainer.startswith("occlusion"):  # occlusion_8 is a name of its own
        return heatmaps
    low, high = heatmaps.amin(dim=(1, 2), keepdim=True), heatmaps.amax(dim=(1, 2), keepdim=True)
    return (heatmaps - low) / (high - low).clamp_min(1e-12)


def correlations(
    heatmaps: Tensor, drops: Tensor, sets: Tensor, tile: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of maps (N, H, W), drops (N, K, masks) and sets (K, masks, tiles): the correlation at each n
    of each image (N, K), of all images together (K,), and the latter's standard error (K,).
    """
    sums = tile_sums(heatmaps, tile).double()
    zero = torch.zeros(1, dtype=torch.float64)
    draws = torch.randint(len(sums), (200, len(sums)), generator=torch.Generator().manual_seed(0))
    each, together, errors = [], [], []
    for k in range(len(sets)):
        a, b = sums @ sets[k].double().T, drops[:, k].double()
        each.append(correlation(a, b, zero, zero))
        together.append(correlation(a.flatten(), b.flatten(), zero, zero)[0])
        again = correlation(a[draws].flatten(1), b[draws].flatten(1), zero, zero)
        errors.append(again.std())
    return torch.stack(each, dim=1), torch.stack(together), torch.stack(errors)


def stored(
    run: Path, data: ShardIndex, names: list[str], classifier: FrozenClassifier
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Pictures (N, 3, H, W), labels (N,) and the maps (N, H, W) of each explainer."""
    store, pictures, labels = ShardStore(run / "heatmaps"), [], []
    maps: dict[str, list[Tensor]] = {name: [] for name in names}
    for shard in data.shards:
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for batch in shard_batches(shard, classifier.preprocessing):
            found |= dict(
                zip(batch["key"], zip(batch["picture"], batch["label"], strict=True), strict=True)
            )
        for name in names:
            tensors, metadata = store.read(name, shard.stem)
            maps[name].append(tensors["values"])
        for key in json.loads(metadata["keys"]):
            pictures.append(found[key][0])
            labels.append(found[key][1])
    return torch.stack(pictures), torch.stack(labels), {n: torch.cat(m) for n, m in maps.items()}


def main() -> None:
    """Print the correlation at each n, as the mean over images and of all images together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tile", type=int, default=8)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--masks", type=int, default=60)
    given = parser.parse_args()
    run = read_run(given.run)
    classifier, names = run_classifier(run, {}), list(run.explainers)
    pictures, labels, maps = stored(given.run, ShardIndex.load(given.data), names, classifier)
    maps = {name: as_the_authors(maps[name], info.cls) for name, info in run.explainers.items()}
    metric = SensitivityN(tile=given.tile, points=given.points, masks=given.masks)
    parts = track(list(zip(pictures.split(1), labels.split(1), strict=True)), "remove")
    drops = torch.cat(
        [metric.shared_scores(classifier, classifier.images(part), label) for part, label in parts]
    )
    tiles = tile_sums(maps[names[0]][:1], given.tile).shape[1]
    sizes = set_sizes(tiles, given.points, 0.0, 0.8).tolist()
    lines: dict[str, list[dict[str, object]]] = {"each image": [], "all images together": []}
    for name in names:
        each, together, errors = correlations(maps[name], drops, metric.sets(tiles), given.tile)
        root = len(each) ** 0.5
        for title, found, error in (
            ("each image", each.mean(dim=0), each.std(dim=0) / root),
            ("all images together", together, errors),
        ):
            at = {
                f"n = {n}": f"{r:.2f} ± {e:.2f}"
                for n, r, e in zip(sizes, found.tolist(), error.tolist(), strict=True)
            }
            lines[title].append({"explainer": name, **at})
        mean = each.mean(dim=1)
        lines["each image"][-1]["mean over n"] = f"{mean.mean():.3f} ± {mean.std() / root:.3f}"
    for title, rows in lines.items():
        show(title, rows)


if __name__ == "__main__":
    main()

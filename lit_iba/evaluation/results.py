"""From stored rows to the results of a run: every metric's result, the rows of images, the gallery
and a table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from lit_iba.classifier.preprocessing import drawn
from lit_iba.data import Shard
from lit_iba.files import whole_file
from lit_iba.metrics import HeatmapMetric, Result
from lit_iba.report.naming import number
from lit_iba.report.run_folder import GALLERY, RunFolder
from lit_iba.resumable.selection import SelectedImages
from lit_iba.resumable.store import ShardStore

Rows = tuple[dict[str, Tensor], list[str]]


def gather_rows(store: ShardStore, group: str, shards: Sequence[str]) -> Rows:
    """All rows of a group in the order of the shards, with the samples' keys."""
    parts: dict[str, list[Tensor]] = {}
    keys: list[str] = []
    for shard in shards:
        tensors, metadata = store.read(group, shard)
        found = json.loads(metadata["keys"])
        keys += found
        if found:  # a shard without a selected image has no rows, and so no shape
            for row, values in tensors.items():
                parts.setdefault(row, []).append(values)
    return {row: torch.cat(values) for row, values in parts.items()}, keys


def summarize_metrics(
    store: ShardStore,
    metrics: Mapping[str, HeatmapMetric],
    explainers: Sequence[str],
    shards: Sequence[str],
    out: Path,
) -> dict[str, dict[str, Result]]:
    """The result of every metric and explainer; the scalars of every image are written as rows of
    the run ``out``.
    """
    results: dict[str, dict[str, Result]] = {name: {} for name in metrics}

    # One group after the other, so that the rows of a large data set are never all in memory.
    def scalars() -> Iterator[tuple[str, str, str, str, float]]:
        for name, metric in metrics.items():
            for explainer in explainers:
                rows, keys = gather_rows(store, f"{name}/{explainer}", shards)
                results[name][explainer] = metric.summarize(rows)
                for quantity, values in metric.scores(rows).items():
                    for key, value in zip(keys, values.tolist(), strict=True):
                        yield key, explainer, name, quantity, value

    RunFolder.write_rows(out, scalars())
    return results


def extremes(
    store: ShardStore,
    metrics: Mapping[str, HeatmapMetric],
    results: Mapping[str, Mapping[str, Result]],
    shards: Sequence[str],
    gallery: int,
) -> set[int]:
    """Numbers of the images on which the best explainer of each metric does best and worst: at
    most three of each, and about as many in all as the gallery has; a gallery of one picture has
    none of them.
    """
    found: set[int] = set()
    each = min(3, gallery // (2 * max(len(metrics), 1)) or int(gallery > 1))
    for name, metric in metrics.items():
        scores = {e: r.score for e, r in results[name].items() if math.isfinite(r.score)}
        if not scores or not each:
            continue
        best = (min if metric.better == "lower" else max)(scores, key=scores.__getitem__)
        rows, _ = gather_rows(store, f"{name}/{best}", shards)
        values = (metric.scores(rows) if rows else {}).get("score")
        if values is not None:
            numbers = values.isfinite().nonzero().flatten()
            order = numbers[values[numbers].argsort(stable=True)].tolist()
            found |= {*order[:each], *order[-each:]}
    return found


def spread(counts: Sequence[int], wanted: int, also: Iterable[int] = ()) -> list[list[int]]:
    """Rows within each shard of ``wanted`` images that lie evenly over all of them, and of those
    whose numbers are given beside.
    """
    total = sum(counts)
    evenly = {i * total // wanted for i in range(wanted)} if total and wanted else set()
    chosen = sorted(evenly | set(also))
    starts = [sum(counts[:s]) for s in range(len(counts))]
    return [
        [i - start for i in chosen if start <= i < start + n]
        for start, n in zip(starts, counts, strict=True)
    ]


class Gallery:
    """Some pictures with the heatmaps of every explainer, for the report.

    Args:
        store: The heatmaps.
        explainers: Whose heatmaps are shown.
    """

    def __init__(self, store: ShardStore, explainers: Sequence[str]) -> None:
        self.store, self.explainers = store, explainers
        self.parts: dict[str, list[Tensor]] = {}
        self.keys: list[str] = []

    def add(self, shard: Shard, images: SelectedImages, rows: Sequence[int]) -> None:
        """Take some of a shard's selected images."""
        where = torch.tensor(rows)
        tensors = {
            "pictures": images.pictures[where],
            "object_mask": images.object_mask[where],
            "labels": images.labels[where],
        }
        for explainer in self.explainers:
            with self.store.opened(explainer, shard.stem) as file:
                values = file.get_slice("values")
                tensors[f"heatmap/{explainer}"] = torch.stack(
                    [values[row : row + 1][0] for row in rows]
                )
        for name, tensor in tensors.items():
            self.parts.setdefault(name, []).append(tensor)
        self.keys += [images.keys[row] for row in rows]

    def save(
        self, out: Path, described: dict[str, dict[str, Any]], class_names: Sequence[str]
    ) -> None:
        """Write it into the run ``out``; ``described`` holds each explainer's unit and whether it
        is signed.
        """
        tensors = {name: torch.cat(parts) for name, parts in self.parts.items()}
        if tensors:
            tensors["pictures"] = drawn(tensors["pictures"]).contiguous()
        labels = tensors["labels"].tolist() if tensors else []
        metadata = {
            "keys": self.keys,
            "units": {name: described[name]["unit"] for name in self.explainers},
            "signed": {name: described[name]["signed"] for name in self.explainers},
            "class_names": [
                class_names[label] if 0 <= label < len(class_names) else str(label)
                for label in labels
            ],
        }
        with whole_file(out / GALLERY) as part:
            save_file(tensors, part, metadata={k: json.dumps(v) for k, v in metadata.items()})


def summary_table(results: dict[str, Any]) -> Table:
    """Explainers by metrics, mean +/- standard error, from the content of ``results.json``.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_iba.evaluation import summary_table
        >>> results = json.loads(Path("runs/digits/results.json").read_text())
        >>> summary_table(results).row_count
        2
    """
    images, samples = results["data"]["used"], results["data"].get("kind", "images")
    table = Table(
        title=(
            f"{results['classifier'].get('model', 'classifier')}, {images} {samples}, mean ±"
            " standard error"
        )
    )
    table.add_column("explainer")
    scores = results["results"]
    for metric in scores:
        arrow = "↑" if results["metrics"][metric]["better"] == "higher" else "↓"
        table.add_column(f"{metric} {arrow}", justify="right")
    table.add_column(f"s/{samples.removesuffix('s')}", justify="right")
    for explainer, described in results["explainers"].items():
        cells = [_cell(scores[metric][explainer], images) for metric in scores]
        table.add_row(explainer, *cells, f"{described['seconds_per_image']:.3g}")
    return table


def _cell(result: dict[str, Any], images: int) -> str:
    if result["score"] is None:
        return f"undefined (n={result['n']})"
    error = "" if result["standard_error"] is None else f" ± {number(result['standard_error'])}"
    return f"{number(result['score'])}{error}" + (
        "" if result["n"] == images else f" (n={result['n']})"
    )

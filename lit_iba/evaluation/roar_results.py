"""What ROAR's accuracies say of each method: results for the table, rows for the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.metrics.base import Result, mean_and_error
from lit_iba.resumable.store import ShardStore

ORIGINAL = "original"  # the group of the cells from which nothing is removed
EXPLAINED = "explained"  # noted of the cell whose network the heatmaps explain


def cell_name(percent: float, seed: int) -> str:
    """The name of a cell's file."""
    return f"p{percent:g}_seed{seed}"


def check_explained(cells: ShardStore, seed: int) -> None:
    """Refuse a folder in which the network of another seed was explained, before it is written
    over.

    Args:
        cells: What earlier runs left.
        seed: Of the network that this run would explain.

    Raises:
        InputError: It was another one.
    """
    for path in sorted((cells.folder / ORIGINAL).glob("*.safetensors")):
        note: dict[str, str] = {}
        with suppress(InputError):  # a damaged cell is made again where it is asked for
            note = cells.read(ORIGINAL, path.stem)[1]
        if path.stem != cell_name(0, seed) and EXPLAINED in note:
            earlier = path.stem.partition("seed")[2]
            raise InputError(
                f"the heatmaps in {cells.folder.parent} explain the network of seed {earlier}; put"
                f" {earlier} first in seeds, choose another output folder, or start this one afresh"
                " (fresh: true)"
            )


@dataclass(frozen=True)
class RoarAccuracies:
    """The test accuracy of every retrained network.

    Args:
        methods: The explainers.
        percents: How much of the pictures is removed.
        seeds: Of the trainings.
        accuracies: Of every seed, (seeds,), by method and percentage; under ``ORIGINAL`` and 0
            that of the pictures as they are.
    """

    methods: Sequence[str]
    percents: Sequence[float]
    seeds: Sequence[int]
    accuracies: Mapping[tuple[str, float], Tensor]

    def results(self) -> dict[str, Result]:
        """The result of every method: its accuracy, mean over percentages and seeds."""
        found = {}
        for method in self.methods:
            removed = [self.accuracies[method, percent] for percent in self.percents]
            points = [self.accuracies[ORIGINAL, 0.0], *removed]
            score, error = mean_and_error(torch.stack(removed).mean(dim=0))
            means = [mean_and_error(point) for point in points]
            line = {
                "x": [0.0, *map(float, self.percents)],
                "y": [float(m) for m, _ in means],
                "se": [float(e) for _, e in means],
            }
            extra = {f"accuracy_at_{x:g}": y for x, y in zip(line["x"], line["y"], strict=True)}
            extra |= {
                f"spread_at_{x:g}": float(p.double().std()) if len(p) > 1 else float("nan")
                for x, p in zip(line["x"], points, strict=True)
            }
            found[method] = Result(
                float(score),
                float(error),
                len(self.seeds),
                extra,
                {"accuracy": line},
                "pixels removed (%)",
                "test accuracy after retraining",
            )
        return found

    def rows(self) -> Iterator[tuple[str, str, str, str, float]]:
        """For ``rows.csv``: each seed's accuracies, and their mean as its score."""
        for method in self.methods:
            points = {
                f"accuracy_at_{percent:g}": self.accuracies[method, percent].double()
                for percent in self.percents
            }
            points = {"score": torch.stack(list(points.values())).mean(dim=0), **points}
            for quantity, values in points.items():
                for seed, value in zip(self.seeds, values.tolist(), strict=True):
                    yield f"seed{seed}", method, "roar", quantity, value

"""Handwritten digits in shards, a tiny classifier, and a benchmark of them; also for the script
that gets killed.
"""

import io
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardIndex, write_shards
from lit_iba.evaluation import Benchmark
from lit_iba.explainer import Attribution, Explainer, completeness_error
from lit_iba.resumable import EvaluationProgress

SIDE = 16
EXPLAINERS = {
    "random": None,
    "bottleneck": {"explainer": "per_sample_iba", "layer": "conv", "steps": 2, "copies": 2},
    "slow": {"explainer": "benchmark_toys.Slow", "seconds": 0.0},
}
METRICS = {
    "degradation_4": {"metric": "degradation", "tile": 4},
    "bounding_box": {},
    "sensitivity_n": {"tile": 4, "points": 3, "masks": 5},
    "deletion": {"pixels_per_step": 64},
    "decision_flip": {"pixels_per_step": 32, "noise_maps": 2},
}


class Tiny(nn.Module):
    """One convolution, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return 20 * self.fc(
            nn.functional.adaptive_avg_pool2d(self.conv(images).relu(), 4).flatten(1)
        )


class Slow(Explainer):
    """Brightness, given with so much delay that it can be killed on the way."""

    def __init__(
        self, classifier: FrozenClassifier, *, seconds: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.seconds = seconds

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        time.sleep(self.seconds)
        return Attribution(images.sum(dim=1))


class Incomplete(Explainer):
    """Promises that the map sums to one; it sums to the image's mean."""

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        values = images.mean(dim=1) / images[0, 0].numel()
        total = values.sum(dim=(1, 2))
        return Attribution(values, completeness=completeness_error(total, torch.ones_like(total)))


class Undefined(Explainer):
    """Gives NaN for the second image of a batch."""

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        values = images.sum(dim=1)
        values[1:2] = torch.nan
        return Attribution(values)


def classifier() -> FrozenClassifier:
    """The same tiny network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FrozenClassifier(Tiny(), preprocessing=Preprocessing(resize=None, crop=SIDE))


def digit(i: int) -> tuple[bytes, list[int]]:
    """A PNG with one digit at a place that depends on i, and its box."""
    image = Image.fromarray((load_digits().images[i] * 15).astype(np.uint8))
    canvas, x, y = Image.new("RGB", (SIDE, SIDE), (90, 60, 30)), i % 7, i % 5
    size = 16 if i % 6 == 5 else 8  # every sixth fills the picture
    x, y = (0, 0) if size == 16 else (x, y)
    canvas.paste(image.resize((size, size)), (x, y))
    data = io.BytesIO()
    canvas.save(data, "PNG")
    return data.getvalue(), [x, y, x + size, y + size]


def make_data(
    folder: Path, count: int = 18, corrupt: tuple[int, ...] = (4,), shard_size: int = 5
) -> ShardIndex:
    """Write digits as shards; some of them cannot be decoded."""
    labels = load_digits().target
    samples = []
    for i in range(count):
        data, box = digit(i)
        samples.append(
            {
                "key": f"digit{i:03d}",
                "png": data[:60] if i in corrupt else data,
                "cls": int(labels[i]),
                "json": {"bbox": [box], "width": SIDE, "height": SIDE},
            }
        )
    return write_shards(samples, folder, "val", shard_size)


def benchmark(data: object, out: Path, **changes: object) -> Benchmark:
    """The benchmark of the tests, with changes."""
    settings = {
        "explainers": EXPLAINERS,
        "metrics": METRICS,
        "batch_size": 2,
        "statistics_data": data,
        "statistics_images": 10,
        "gallery": 4,
    } | changes
    network = settings.pop("classifier", None) or classifier()
    return Benchmark(network, data, out=out, **settings)


def kept_bars(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[EvaluationProgress]:
    """The progress bars that a module makes from now on."""
    bars: list[EvaluationProgress] = []

    def kept(*given: Any, **named: Any) -> EvaluationProgress:
        bars.append(EvaluationProgress(*given, **named))
        return bars[-1]

    monkeypatch.setattr(module, "EvaluationProgress", kept)
    return bars


def scored(result: dict) -> dict[str, float]:
    """Score, error and extras of a metric's stored result, with the NaN that JSON does not have: of
    an untrained network there may be no degradation.
    """
    kept = {which: result[which] for which in ("score", "standard_error")} | result["extra"]
    return {name: float("nan") if value is None else value for name, value in kept.items()}


def numbers(results: dict) -> dict:
    """What must not depend on how, when or by how many processes the results were made."""
    explainers = {
        name: {k: v for k, v in described.items() if k != "seconds_per_image"}
        for name, described in results["explainers"].items()
    }
    kept = {key: results[key] for key in ("schema", "classifier", "data", "metrics", "results")}
    return kept | {"explainers": explainers}

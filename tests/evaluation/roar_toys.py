"""Digits on a coloured ground in shards, an oracle that knows where they are, and a small ROAR;
also for the killed one.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lit_iba.data import ShardIndex, write_shards
from lit_iba.evaluation.roar import Roar
from lit_iba.explainer import Attribution, Explainer

SIDE = 16
GROUND = (200, 90, 30)
RECIPE = {
    "network": "roar_toys:network",
    "epochs": 8,
    "batch_size": 24,
    "learning_rate": 0.01,
    "decay_every": 4,
    "augment": False,
}
EXPLAINERS = {"oracle": {"explainer": "roar_toys.Oracle"}, "random": None}


class Oracle(Explainer):
    """Finds the object by its colour: grey on a coloured ground. Its mask is 1 there and 0
    elsewhere.
    """

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        pictures = self.classifier.preprocessing.denormalize(images).float()
        return Attribution(((pictures[:, 0] - pictures[:, 2]).abs() < 20).float())


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
        )
        self.fc = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).flatten(1))


def network(num_classes: int = 4) -> nn.Module:
    """What the recipe's network names."""
    return Small(num_classes)


class Drawing(Small):
    """The same with dropout and a parameter that no layer initialises."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.dropout(self.features(images * self.scale)).flatten(1))


def make_data(folder: Path, train: int = 240, test: int = 80) -> Path:
    """Digits 0 to 3, near the middle."""
    digits = load_digits()
    chosen = np.flatnonzero(digits.target < 4)
    places = np.random.default_rng(0).integers(3, 6, (len(chosen), 2))
    for name, some in (("train", range(train)), ("test", range(train, train + test))):
        samples = []
        for i in some:
            canvas = Image.new("RGB", (SIDE, SIDE), GROUND)
            grey = Image.fromarray((digits.images[chosen[i]] * 15).astype(np.uint8))
            canvas.paste(grey, tuple(map(int, places[i])))
            data = io.BytesIO()
            canvas.save(data, "PNG")
            samples.append(
                {
                    "key": f"digit{i:04d}",
                    "png": data.getvalue(),
                    "cls": int(digits.target[chosen[i]]),
                }
            )
        write_shards(samples, folder / name, name, 100, list("0123"))
    return folder


def roar(data: Path, out: Path, **changes: object) -> Roar:
    """The ROAR of the tests, with changes."""
    settings = {
        "percents": [10, 25],
        "seeds": [0, 1],
        "recipe": RECIPE,
        "size": SIDE,
        "gallery": 2,
        "explainers": EXPLAINERS,
    } | changes
    return Roar(
        ShardIndex.load(data / "train"), ShardIndex.load(data / "test"), out=out, **settings
    )

"""A small network that is registered in another order than it runs, and explainers to judge."""

import torch
from metric_toys import SIDE, frozen
from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.explainer import Attribution, Explainer
from lit_iba.statistics import FeatureStatistics


class Shuffled(nn.Module):
    """Two equal convolutions with batch norms and a shortcut; registered in the wrong order on
    purpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(6, 1, 1))
        self.fc = nn.Linear(6, 4)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.first_norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.never = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu() + self.offset
        y = self.first_norm(self.first(x)).relu()
        y = self.second_norm(self.second(y)) + x
        return self.fc(y.relu().mean(dim=(2, 3)))


def shuffled() -> FrozenClassifier:
    """The same network every time, with batch norms that have seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Shuffled()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        return frozen(network)


class Edges(Explainer):
    """Differences of neighbouring pixels: looks like an explanation and does not depend on the
    network.
    """

    signed = True

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        grey = images.mean(dim=1)
        return Attribution(grey - grey.roll(1, dims=2))


class Negated(Edges):
    """The same with its sign turned wherever the network's last layer was drawn at random (as LRP's
    maps are).
    """

    trained_weight: Tensor

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        same = torch.equal(self.classifier.model.fc.weight, type(self).trained_weight)
        return Attribution(
            super().explain(images, targets, generators).values * (1 if same else -1)
        )


class StoredPictures:
    """Surroundings that estimate from random images, and count how often they were asked."""

    def __init__(self) -> None:
        self.kept: dict[str, FeatureStatistics] = {}
        self.passes = 0

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        if layer not in self.kept:
            self.kept[layer] = FeatureStatistics.estimate(
                classifier, layer, self.batches(classifier)
            )
        return self.kept[layer]

    def batches(self, classifier: FrozenClassifier):
        self.passes += 1
        return torch.randn(40, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).split(8)

"""Networks for these tests: random ones whose biases and batch norms matter, and one that does
everything in place.
"""

import torch
import torch.nn.functional as F
from slim_networks import slim
from torch import Tensor, nn

from lit_iba import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing


def with_biases(name: str) -> FrozenClassifier:
    """A torchvision network in float64 whose every bias, mean, variance and scale is random, at the
    scale of its activity.
    """
    classifier = FrozenClassifier(slim(name), preprocessing=Preprocessing())
    generator = torch.Generator().manual_seed(3)
    for module in classifier.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.3, generator=generator)
    return classifier.double()


class OutOfPlace(nn.Module):
    """Two convolutions, a shortcut, functional batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.norm.running_mean.normal_()
        self.norm.bias.data.normal_()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.first(x - 0.1) + 0.2)
        norm = self.norm
        two = F.batch_norm(
            self.second(one), norm.running_mean, norm.running_var, norm.weight, norm.bias, False
        )
        three = F.relu(two + one)
        return F.linear(F.max_pool2d(three, 2).mean(dim=(2, 3)), self.fc.weight, self.fc.bias)


class InPlace(OutOfPlace):
    """The same function with everything that can go wrong: in place, results ignored, one ReLU for
    all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x - 0.1)
        one += 0.2
        self.relu(one)  # its result is not used; the later readers of `one` see it all the same
        norm = self.norm
        two = F.batch_norm(
            self.second(one), norm.running_mean, norm.running_var, norm.weight, norm.bias, False
        )
        two += one
        three = F.relu(self.relu(two), True)
        return F.linear(F.max_pool2d(three, 2).mean(dim=(2, 3)), self.fc.weight, self.fc.bias)


class Untraceable(OutOfPlace):
    """A branch on values, which no tracer follows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.abs().sum() > 0 else x + 1)


def plain_network() -> nn.Module:
    """No batch norms, ten classes."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )

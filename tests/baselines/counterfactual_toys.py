"""Classifiers of which it is known what they look at, for the methods that mask or fill in."""

import torch
from torch import Tensor, nn

from lit_iba import FrozenClassifier, Preprocessing


class Additive(nn.Module):
    """Logit 1 is the weighted sum of the pixels' brightness; logit 0 is zero."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        logit = (images.mean(dim=1) * self.weight).sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


class Curved(nn.Module):
    """A small convolutional network with something non-linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.fc(self.conv(images).relu().square().mean(dim=(2, 3)))


def frozen(module: nn.Module, side: int) -> FrozenClassifier:
    """A module as the frozen classifier of pictures of this size."""
    return FrozenClassifier(
        module,
        preprocessing=Preprocessing(resize=None, crop=side, mean=(0.5,) * 3, std=(0.25,) * 3),
    )


def curved(side: int, dtype: torch.dtype = torch.float32) -> FrozenClassifier:
    """The same small network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        classifier = frozen(Curved(), side)
    return classifier.to(dtype)


def looking_at(square: tuple[slice, slice], side: int, strength: float) -> FrozenClassifier:
    """Class 1 is the mean brightness of a square of the picture, times a strength."""
    weight = torch.zeros(side, side)
    weight[square] = strength / weight[square].numel()
    return frozen(Additive(weight), side)


def pictures(count: int, side: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images (count, 3, side, side)."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    )

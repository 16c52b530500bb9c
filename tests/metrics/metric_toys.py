"""Tiny classifiers and images for the metrics' tests."""

import numpy as np
import torch
from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing

SIDE = 12


class Curved(nn.Module):
    """A small convolutional network with something non-linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.fc(self.conv(images).relu().square().mean(dim=(2, 3)))


class Additive(nn.Module):
    """Logit 1 is the sum of all values, weighted by pixel; logit 0 is constant: every removal has a
    known price.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        logit = (images.mean(dim=1) * self.weight).sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def frozen(module: nn.Module, side: int = SIDE) -> FrozenClassifier:
    """A module as the frozen classifier of pictures of this size."""
    return FrozenClassifier(module, preprocessing=Preprocessing(resize=None, crop=side))


def curved() -> FrozenClassifier:
    """The same small network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return frozen(Curved())


def sample(
    count: int, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W), targets (B,) and heatmaps (B, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=generator)
    targets = torch.randint(0, 4, (count,), generator=generator)
    return images, targets, torch.randn(count, *size, generator=generator)


def others_of(heatmaps: Tensor, wanted: int) -> Tensor | None:
    """The heatmaps of the next images in the batch, (B, wanted, H, W); None if none are wanted."""
    return (
        torch.stack([heatmaps.roll(-k, 0) for k in range(1, wanted + 1)], dim=1) if wanted else None
    )


def slow_ssim(a, b, window, skimage, data_range=1):
    """The formula window by window: population variances with reflected borders, or sample
    variances inside only.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    edge, found = window // 2, []
    if not skimage:
        a, b = np.pad(a, edge, mode="reflect"), np.pad(b, edge, mode="reflect")
    for i in range(edge, a.shape[0] - edge):
        for j in range(edge, a.shape[1] - edge):
            x, y = (m[i - edge : i + edge + 1, j - edge : j + edge + 1].ravel() for m in (a, b))
            covariance = np.cov(x, y, ddof=1 if skimage else 0)
            top = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
            bottom = (x.mean() ** 2 + y.mean() ** 2 + c1) * (
                covariance[0, 0] + covariance[1, 1] + c2
            )
            found.append(top / bottom)
    return np.mean(found)

"""Tiny networks that were trained to answer about planted objects, an objective each, with images
and where the objects are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FeatureStatistics, FrozenClassifier, Preprocessing

SIDE = 32
LAYER = "body.3"


@dataclass(frozen=True)
class World:
    """Images (B, C, H, W), what is asked about them, and the pixels that answer, bool (B, H, W)."""

    classifier: FrozenClassifier
    images: Tensor
    targets: Tensor
    planted: Tensor

    def statistics(self, layer: str = LAYER) -> FeatureStatistics:
        """Of the images at large; layer ``"input"`` is the images."""
        return FeatureStatistics.estimate(self.classifier, layer, self.images)


class Network(nn.Module):
    """A few convolutions, then what ``head`` makes of their features."""

    def __init__(self, channels: int, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """What the head says."""
        found: Tensor = self.head(self.body(images))
        return found


class Named(nn.Module):
    """A network with its answer under a name, as torchvision's segmentation networks have it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The answer, and another."""
        return {"aux": images.mean(dim=(1, 2, 3)), "out": self.network(images)}


def preprocessing(channels: int) -> Preprocessing:
    """Of images of 32 pixels."""
    many = (0.5,) * channels
    return Preprocessing(resize=None, crop=SIDE, mean=many, std=many)


def trained(
    network: nn.Module, sample: Callable[[int], tuple[Tensor, Tensor]], loss: Callable[..., Tensor]
) -> nn.Module:
    """A network after a second of training."""
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        images, answers = sample(16)
        adam.zero_grad()
        loss(network(images), answers).backward()
        adam.step()
    return network.eval()


def placed(count: int, height: int, width: int) -> Tensor:
    """A box of this size somewhere in each picture, bool (count, H, W)."""
    top = torch.randint(0, SIDE - height, (count, 1, 1))
    left = torch.randint(0, SIDE - width, (count, 1, 1))
    y, x = torch.arange(SIDE)[None, :, None], torch.arange(SIDE)[None, None, :]
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def bars(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A vertical bar, a horizontal one, both or none on noise: images (B, 1, H, W), which are there
    (B, 2), and where, (B, 2, H, W).
    """
    where = torch.stack([placed(count, 12, 3), placed(count, 3, 12)], dim=1)
    there = torch.rand(count, 2) < 0.5
    shown = (where & there[:, :, None, None]).any(dim=1)
    images = 0.3 * torch.randn(count, SIDE, SIDE) + shown
    return images[:, None], there.float(), where


def discs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A square (a "disc" with corners) whose brightness is the answer, and a wide bar of any
    brightness that is none, in two channels: images (B, 2, H, W), 10 to 50 (B, 1), where (B, H, W).
    """
    where, other = placed(count, 8, 8), placed(count, 4, 16)
    brightness = 0.2 + 0.8 * torch.rand(count, 2)
    image = 0.1 * torch.randn(count, 2, SIDE, SIDE)
    image[:, 1] += other * brightness[:, 1, None, None]
    image[:, 0] += where * brightness[:, 0, None, None]
    return image, 50 * brightness[:, :1], where


def regions(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square of class 1 and a dark one of class 2: images (B, 3, H, W), classes (B, H, W),
    and where the first is.
    """
    bright, dark = placed(count, 9, 9), placed(count, 9, 9)
    classes = torch.where(bright, 1, torch.where(dark, 2, 0))
    images = 0.3 * torch.randn(count, 3, SIDE, SIDE) + bright[:, None] * 1.0
    images = images - (dark & ~bright)[:, None] * 1.0
    return images, classes, bright


@cache
def multilabel() -> World:
    """Is there a vertical bar, is there a horizontal one? Asked about the first, of images that
    have both; one channel.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 2))
        network = trained(
            Network(1, head),
            lambda n: bars(n)[:2],
            F.binary_cross_entropy_with_logits,
        )
        images, there, where = bars(96)
    both = there.bool().all(dim=1)
    classifier = FrozenClassifier(network, objective="multilabel", preprocessing=preprocessing(1))
    images, where = images[both][:8], where[both][:8]
    return World(
        classifier, images, torch.arange(8) % 2, where[torch.arange(8), torch.arange(8) % 2]
    )


@cache
def regression() -> World:
    """How bright is the square? To a tolerance of 5 on a scale to 50; two channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 1))
        network = trained(
            Network(2, head),
            lambda n: discs(n)[:2],
            lambda found, wanted: F.mse_loss(found, wanted) / 100,
        )
        images, answers, where = discs(96)
    bright = answers[:, 0] > 35
    classifier = FrozenClassifier(
        network,
        objective={"name": "regression", "tolerance": 5.0},
        preprocessing=preprocessing(2),
    )
    images, where = images[bright][:8], where[bright][:8]
    return World(classifier, images, classifier.targets(images), where)


@cache
def segmentation() -> World:
    """Which pixels are bright squares, and which dark ones?"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = nn.Sequential(nn.Conv2d(16, 3, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
        network = trained(Network(3, head), lambda n: regions(n)[:2], F.cross_entropy)
        images, _, where = regions(8)
    classifier = FrozenClassifier(
        Named(network),
        objective={"name": "segmentation", "background": 0},
        output="out",
        preprocessing=preprocessing(3),
    )
    return World(classifier, images, classifier.targets(images, 1), where)


class TwoEncoders(nn.Module):
    """A CLIP of the smallest kind: images and three words, in one space of 8 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 8))
        self.image, self.text = Network(1, head), nn.Embedding(3, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Cosines of images with the words, over a temperature."""
        return 10 * F.normalize(self.image(images), dim=1) @ F.normalize(self.text.weight, dim=1).T


@cache
def embedding() -> World:
    """Which word is the image nearest to, "vertical", "horizontal" or "nothing"? Without the third
    one, a network may answer "horizontal" where it sees no vertical bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)

        def one_bar(count: int) -> tuple[Tensor, Tensor, Tensor]:
            images, there, where = bars(4 * count)
            chosen = (there.sum(dim=1) < 2).nonzero()[:count, 0]
            which = torch.where(there[chosen].any(dim=1), there[chosen].argmax(dim=1), 2)
            return images[chosen], which, where[chosen, which.clamp_max(1)]

        clip = trained(TwoEncoders(), lambda n: one_bar(n)[:2], F.cross_entropy)
        images, which, where = (values[:24] for values in one_bar(24))
        images, which, where = (values[which < 2][:8] for values in (images, which, where))
    assert isinstance(clip, TwoEncoders)
    words = clip.text.weight.detach()
    classifier = FrozenClassifier(
        clip.image,
        objective={"name": "embedding", "vectors": words, "temperature": 0.1},
        class_names=["vertical", "horizontal", "nothing"],
        preprocessing=preprocessing(1),
    )
    return World(classifier, images, which, where)


WORLDS = {
    "multilabel": multilabel,
    "regression": regression,
    "segmentation": segmentation,
    "embedding": embedding,
}

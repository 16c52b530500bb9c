"""The boxed photographs that benchmarks of maps judge, chosen before any map is seen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.resumable.selection import Selection

MAX_BOX_FRACTION, MIN_PROBABILITY = 0.33, 0.6  # of table 1 of IBA; of the authors of InputIBA
STATISTICS_IMAGES = 400


@dataclass(frozen=True)
class Photographs:
    """Photographs with their boxes and labels, and how many others there were.

    Args:
        images: Normalised (N, 3, H, W).
        labels: int64 (N,), which are what is explained: of the data, or what is predicted.
        object_mask: bool (N, H, W).
        keys: Of the samples.
        boxed: How many photographs had small boxes at all.
        unsure: How many of these the network gave less than ``MIN_PROBABILITY``.
    """

    images: Tensor
    labels: Tensor
    object_mask: Tensor
    keys: list[str]
    boxed: int
    unsure: int

    @property
    def chosen_on(self) -> str:
        """What they were chosen on, in a sentence."""
        return (
            f"{len(self.keys)} of {self.boxed} photographs whose boxes cover less than"
            f" {MAX_BOX_FRACTION:.0%}, drawn by their names' hashes from those"
            f" ({self.boxed - self.unsure}) whose class has probability >= {MIN_PROBABILITY}"
        )


def at_side(network: str, weights: str, side: int) -> FrozenClassifier:
    """The classifier of pictures of so many pixels, cropped as those of 224 are."""
    return FrozenClassifier(
        network, weights, preprocessing=Preprocessing(resize=side * 8 // 7, crop=side)
    )


def chosen(
    classifier: FrozenClassifier, data: str, count: int, predicted: bool = False
) -> Photographs:
    """So many photographs, see :attr:`Photographs.chosen_on`; ``predicted`` explains what the
    network says instead of the labels, which it may not know.
    """
    selection = Selection(max_box_fraction=MAX_BOX_FRACTION)
    parts = [
        selection.select(shard, shard.count, classifier.preprocessing)
        for shard in ShardIndex.load(data).shards
    ]
    images = torch.cat([classifier.images(part.pictures) for part in parts])
    labels = torch.cat([part.labels for part in parts])
    masks = torch.cat([part.object_mask for part in parts])
    keys = [key for part in parts for key in part.keys]
    with torch.no_grad():
        outputs = torch.cat([classifier(some) for some in images.split(64)])
    if predicted:
        labels = outputs.argmax(dim=1)
    sure = outputs.softmax(dim=1)[torch.arange(len(labels)), labels] >= MIN_PROBABILITY
    picked = [i for i in selection.ranked(keys) if sure[i]][:count]
    return Photographs(
        images[picked],
        labels[picked],
        masks[picked],
        [keys[i] for i in picked],
        len(keys),
        int((~sure).sum()),
    )


def of_statistics(classifier: FrozenClassifier, data: str) -> Iterator[Tensor]:
    """The images that feature statistics are estimated on, normalised, (B, 3, H, W) each."""
    left = STATISTICS_IMAGES
    for shard in ShardIndex.load(data).shards:
        for batch in shard_batches(shard, classifier.preprocessing, 50):
            if left > 0:
                yield classifier.images(batch["picture"][batch["weight"] > 0][:left])
                left -= len(batch["picture"])


def arguments(doc: str | None, images: int) -> argparse.ArgumentParser:
    """What the benchmarks on boxed photographs are told: a network, its layer, and the pictures."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--data", required=True)
    parser.add_argument("--statistics", required=True)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--side", type=int, default=112)
    return parser

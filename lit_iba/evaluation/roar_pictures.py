"""What ROAR trains on: all pictures of a set, their colours, and their heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardIndex
from lit_iba.data.labels import check_same_numbers
from lit_iba.data.patterns import Source
from lit_iba.errors import InputError
from lit_iba.evaluation.benchmark import Benchmark
from lit_iba.evaluation.roar_training import Pictures
from lit_iba.resumable.selection import Selection


def sets_of(train: ShardIndex | Source, test: ShardIndex | Source) -> dict[str, ShardIndex]:
    """The shards of both sets.

    Raises:
        InputError: A class has other labels in one than in the other.
    """
    sets = {
        name: data if isinstance(data, ShardIndex) else ShardIndex.load(data)
        for name, data in (("train", train), ("test", test))
    }
    check_same_numbers(
        {f"the {name} data": index.class_names for name, index in sets.items()},
        "write both again with class_names, all classes in the order of their labels",
    )
    return sets


def labelled_pictures(
    name: str, index: ShardIndex, limit: int | None, crop: Preprocessing
) -> tuple[Pictures, list[str]]:
    """All pictures of a set, with their keys.

    Raises:
        InputError: One has no label.
    """
    selection = Selection(limit)
    quotas = selection.quotas([shard.count for shard in index.shards])
    parts = [
        selection.select(shard, quota, crop)
        for shard, quota in zip(index.shards, quotas, strict=True)
    ]
    labels = torch.cat([part.labels for part in parts])
    if not len(labels) or int(labels.min()) < 0:
        raise InputError(
            f"ROAR trains on labels, but the {name} data has pictures without one; add .cls members"
        )
    pictures = Pictures(torch.cat([part.pictures for part in parts]), labels)
    return pictures, [key for part in parts for key in part.keys]


def colours_of(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, (3,), of pictures scaled to [0, 1]."""
    counts = torch.stack(
        [torch.bincount(c.flatten().int(), minlength=256) for c in pictures.transpose(0, 1)]
    ).double()
    values, total = torch.arange(256).double() / 255, counts.sum(dim=1)
    mean = (counts * values).sum(dim=1) / total
    spread = ((counts * (values - mean[:, None]) ** 2).sum(dim=1) / total).sqrt()
    return mean.float(), spread.clamp_min(1e-3).float()


def maps_of(benchmark: Benchmark, method: str) -> Tensor:
    """All heatmaps of a method, (N, H, W), in the order of the pictures."""
    plan = benchmark.plan
    return torch.cat([plan.heatmaps.read(method, stem)[0]["values"] for stem in plan.stems])

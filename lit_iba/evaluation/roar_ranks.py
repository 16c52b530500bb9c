"""The order in which ROAR removes pixels, from heatmaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_iba.randomness import sample_generators


def relevance_ranks(maps: Tensor, keys: Sequence[str]) -> Tensor:
    """Rank of each pixel, 0 for the most relevant: (N, H, W) to int32 (N, H, W).

    Equal pixels, such as the zeros of a rectified map, come in a random order that follows from the
    picture's key.
    """
    flat = maps.flatten(1)
    generators = sample_generators(0, keys, flat.device)
    tie = torch.stack(
        [torch.randperm(flat.shape[1], generator=g, device=g.device) for g in generators]
    )
    order = tie.gather(1, flat.gather(1, tie).argsort(dim=1, descending=True, stable=True))
    ranks = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, ranks).view_as(maps)


def most_relevant(ranks: Tensor, percent: float) -> Tensor:
    """The top ``percent`` of the pixels of each picture, bool (N, H, W)."""
    return ranks < round(percent / 100 * ranks[0].numel())

"""The weight of the information at which the target keeps a wanted probability, image by image.

Ours: the paper has one beta for all images, with which an easy image keeps its class through few
bits and a hard one loses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOWEST, HIGHEST = -1.0, 3.0  # log10 of beta; the paper's 10 is in the middle, and tried first


def search_beta(
    solve: Callable[[Tensor], Tensor],
    probability: Callable[[Tensor], Tensor],
    wanted: Tensor,
    probes: int,
) -> tuple[Tensor, Tensor]:
    """The largest beta tried with which each image keeps its wanted probability, by bisection of
    log10(beta).

    Args:
        solve: From beta (B,) to the bottleneck's logits (B, *R).
        probability: Of each target under such a bottleneck, (B,).
        wanted: (B,).
        probes: How many betas are tried; the last two differ by a factor of 10^(4 / 2^probes).

    Returns:
        The logits, and beta (B,); where no beta keeps the probability, those of the smallest tried.
    """
    low, high = torch.full_like(wanted, LOWEST), torch.full_like(wanted, HIGHEST)
    ever = torch.zeros_like(wanted, dtype=torch.bool)
    alpha, beta = None, torch.ones_like(wanted)
    for _ in range(probes):
        middle = (low + high) / 2
        tried = torch.pow(10.0, middle)
        found = solve(tried)
        kept = probability(found) >= wanted
        better = kept | ~ever  # a beta that is kept is larger than all that were before
        of_images = better.view(-1, *[1] * (found.ndim - 1))
        alpha = found if alpha is None else torch.where(of_images, found, alpha)
        beta = torch.where(better, tried, beta)
        ever |= kept
        low, high = torch.where(kept, middle, low), torch.where(kept, high, middle)
    assert alpha is not None
    return alpha, beta

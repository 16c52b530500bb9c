"""How many pixels a training step keeps, spread evenly over the samples that are trained on
together.

The loss depends on k more than on anything else that is drawn, so that sixteen independent k of a
batch make a noisy gradient. The paper (submission to ICLR 2021, section 4.1) draws k ~ U(hw/10,
9hw/10) and says no more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = (
    math.sqrt(5) - 1
) / 2  # any run of its multiples, modulo 1, leaves gaps of at most three sizes (Steinhaus)


def golden_uniform(first: int, count: int, offset: float, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of samples at consecutive places of an epoch: frac(offset + place * golden
    ratio).

    Each is uniform where the offset is; those of a batch, of any size and begun anywhere, lie
    evenly. A sample's number follows from its place and the offset: runs with equal seeds draw
    equal numbers, resumed ones too. With another batch size or number of processes, samples come at
    other places and so with other numbers, of the same evenly spread set.

    Args:
        first: Place of the first sample, from 0.
        count: How many samples.
        offset: Of the epoch, in [0, 1).
        device: Where the numbers are made.

    Returns:
        float32 (count,).
    """
    places = torch.arange(first, first + count, device=device, dtype=torch.float64)
    # A float64 just below 1 may round to 1 as a float32.
    return torch.frac(offset + places * GOLDEN).float().clamp_max(1 - 2**-24)

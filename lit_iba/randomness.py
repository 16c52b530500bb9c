"""Random numbers that belong to what they are drawn for: seeds and generators that follow from names.

Equal names give equal numbers, wherever and whenever they are drawn, so that batch size, rank and order do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_for(*names: object) -> int:
    """A seed that belongs to what is named, such as (seed, epoch, key)."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator_for(*names: object) -> torch.Generator:
    """A generator that belongs to what is named."""
    return torch.Generator().manual_seed(seed_for(*names))


def sample_generators(seed: int, keys: Sequence[str], device: torch.device) -> list[torch.Generator]:
    """One generator a sample, seeded by (seed, key): equal for equal samples, wherever and whenever they are drawn."""
    return [torch.Generator(device).manual_seed(seed_for(seed, key)) for key in keys]


def content_keys(images: Tensor) -> list[str]:
    """A key an image that depends on nothing but its pixels."""
    return [hashlib.sha256(image.contiguous().cpu().numpy().tobytes()).hexdigest() for image in images]

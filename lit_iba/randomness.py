"""Random numbers that belong to what they are drawn for: seeds and generators that follow from
names.

Equal names give equal numbers, wherever and whenever they are drawn, so that batch size, rank and
order do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPE = torch.float32  # a generator gives others in another, and torch's default is the user's


def seed_for(*names: object) -> int:
    """A seed that belongs to what is named, such as (seed, epoch, key)."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator_for(*names: object) -> torch.Generator:
    """A generator that belongs to what is named."""
    return torch.Generator().manual_seed(seed_for(*names))


def sample_generators(
    seed: int, keys: Sequence[str], device: torch.device
) -> list[torch.Generator]:
    """One generator a sample, seeded by (seed, key): equal for equal samples, wherever and whenever
    they are drawn.
    """
    return [torch.Generator(device).manual_seed(seed_for(seed, key)) for key in keys]


def content_keys(images: Tensor) -> list[str]:
    """A key an image that depends on nothing but its pixels, in float32."""
    return [
        hashlib.sha256(image.float().contiguous().cpu().numpy().tobytes()).hexdigest()
        for image in images
    ]


def normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers float32 (B, *shape), each sample's from its own generator."""
    drawn = [torch.randn(shape, generator=g, device=g.device, dtype=DTYPE) for g in generators]
    return torch.stack(drawn)


def normal_copies(
    generators: Sequence[torch.Generator],
    copies: int,
    shape: Sequence[int],
    out: Tensor | None = None,
    scratch: Tensor | None = None,
) -> Tensor:
    """Standard normal numbers for several copies of a batch, each sample's from its own generator.

    Args:
        generators: One a sample.
        copies: How many copies.
        shape: Of one sample.
        out: Where they go, (copies, B, *shape); by default a new tensor.
        scratch: Room for the copies of one sample, (copies, *shape), in a loop where it shall not
            be taken again.

    Returns:
        (copies, B, *shape).
    """
    if out is None:
        device = generators[0].device
        out = torch.empty(copies, len(generators), *shape, device=device, dtype=DTYPE)
    # In one piece of memory a sample: so the numbers of a sample do not depend on the batch around
    # it. And in one precision, whatever that of what they are added to.
    own = out[:, 0] if len(generators) == 1 else scratch
    if own is None or not own.is_contiguous() or own.dtype != DTYPE:
        own = torch.empty(copies, *shape, device=out.device, dtype=DTYPE)
    for i, generator in enumerate(generators):
        out[:, i] = own.normal_(generator=generator)
    return out

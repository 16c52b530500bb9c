"""Noise that looks like photographs from afar: every pixel standard normal, neighbours alike.

What InputIBA puts in a pixel's place is independent of its neighbours (equation 3 of Zhang et al.,
NeurIPS 2021); such grain alone makes a classifier see nothing, so that a mask trained with it keeps
a little of everything. Photographs have about the same contrast at every scale (Field, "Relations
between the statistics of natural images and the response properties of cortical cells", 1987), and
their colours go together. Each pixel's own distribution is the same in both, and with it the
information that proposition 3 counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHARED = 0.9  # of the variance that all channels have in common
COARSEST = 4  # cells of the coarsest octave along a side


def natural_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Noise (B, C, H, W), each image's from its own generator, as a sum of octaves of equal
    strength; in each picture and octave with root mean square 1.

    Example:
        >>> import torch
        >>> from lit_iba.input_iba.natural_noise import natural_noise
        >>> noise = natural_noise([torch.Generator().manual_seed(0)], (3, 64, 64))
        >>> right = (noise[..., 1:] * noise[..., :-1]).mean()  # neighbours
        >>> noise.shape, bool(right > 0.5)
        (torch.Size([1, 3, 64, 64]), True)
    """
    channels, height, width = shape
    rows, columns = height, width
    octaves: list[Tensor] = []
    while not octaves or min(rows, columns) >= COARSEST:
        octaves.append(_octave(generators, channels, (rows, columns), (height, width)))
        rows, columns = rows // 2, columns // 2
    return torch.stack(octaves).sum(dim=0) / len(octaves) ** 0.5


def _octave(
    generators: Sequence[torch.Generator],
    channels: int,
    cells: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    drawn = torch.stack(
        [torch.randn(channels + 1, *cells, generator=g, device=g.device) for g in generators]
    )
    mixed = SHARED**0.5 * drawn[:, :1] + (1 - SHARED) ** 0.5 * drawn[:, 1:]
    if cells != size:
        mixed = F.interpolate(mixed, size=size, mode="bicubic", align_corners=False)
    return mixed / mixed.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()

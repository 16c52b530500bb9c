"""Pictures in tiles, and what a classifier says when some of the tiles are removed.

Shared by the metrics that perturb. A tile is a square of ``tile`` x ``tile`` pixels, counted row by row from the top
left; where height or width is no multiple of it, the tiles at the right and bottom edges are smaller. A tile of 1 is a
pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.metrics.base import in_double


def check_counts(**settings: int) -> None:
    """Refuse settings that are not whole numbers of at least one."""
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{setting} is {value!r}; it must be a whole number of at least 1")


def tile_index(size: tuple[int, int], tile: int, device: torch.device | None = None) -> Tensor:
    """Number of the tile that each pixel belongs to, int64 (H, W)."""
    height, width = size
    columns = -(-width // tile)
    row = torch.arange(height, device=device) // tile
    return row[:, None] * columns + torch.arange(width, device=device)[None, :] // tile


def tile_sums(heatmaps: Tensor, tile: int) -> Tensor:
    """Sum of the attribution in each tile: (B, H, W) to float64 (B, tiles)."""
    height, width = heatmaps.shape[-2:]
    padded = F.pad(in_double(heatmaps), (0, -width % tile, 0, -height % tile))  # zeros: edge tiles sum what they have
    rows, columns = padded.shape[-2] // tile, padded.shape[-1] // tile
    return padded.view(-1, rows, tile, columns, tile).sum(dim=(2, 4)).flatten(1)


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit, (B, K) and (B,) to float32 (B,)."""
    return logits.float().gather(1, targets[:, None])[:, 0]


def target_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's softmax probability, (B, K) and (B,) to float32 (B,)."""
    return target_logits(logits.float().softmax(dim=1), targets)


@torch.inference_mode()
def perturbed_scores(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    fill: Tensor,
    removed: Callable[[Tensor], Tensor],
    versions: int,
    *,
    tile: int,
    forward_batch_size: int,
    score: Callable[[Tensor, Tensor], Tensor] = target_probabilities,
) -> Tensor:
    """Score every version of every image, in forward passes that run across images and versions alike.

    Args:
        classifier: The frozen classifier.
        images: Originals (B, 3, H, W).
        targets: Class of each image (B,).
        fill: What removed pixels become: one colour for all, (1, 3, 1, 1), or one an image, (B, 3, 1, 1).
        removed: For jobs (c,), numbered ``image * versions + version``, which tiles are gone: bool (c, tiles).
        versions: Number of perturbed versions of each image.
        tile: Side of a tile in pixels.
        forward_batch_size: Images a forward pass.
        score: From logits and targets to a number an image.

    Returns:
        float32 (B, versions).
    """
    index = tile_index((images.shape[-2], images.shape[-1]), tile, images.device).flatten()
    fill = fill.expand(len(images), -1, -1, -1)
    scores = images.new_zeros(len(images) * versions, dtype=torch.float32)
    for jobs in torch.arange(len(scores), device=images.device).split(forward_batch_size):
        picture = jobs // versions
        gone = removed(jobs)[:, index].view(len(jobs), 1, *images.shape[-2:])  # (c, 1, H, W)
        perturbed = torch.where(gone, fill[picture], images[picture])
        scores[jobs] = score(classifier(perturbed), targets[picture])
    return scores.view(len(images), versions)

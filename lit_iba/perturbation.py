"""Pictures in tiles or blurred, and what a classifier says when some of the tiles are removed.

Shared by the metrics and the explainers that perturb. A tile is a square of ``tile`` x ``tile``
pixels, counted row by row from the top left; where height or width is no multiple of it, the tiles
at the right and bottom edges are smaller. A tile of 1 is a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.objectives import Classification
from lit_iba.randomness import generator_for

Ties = Literal["reading_order", "random"]


def in_double(values: Tensor) -> Tensor:
    """The values in float64, in main memory if the device has no float64."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def tile_index(size: tuple[int, int], tile: int, device: torch.device | None = None) -> Tensor:
    """Number of the tile that each pixel belongs to, int64 (H, W)."""
    height, width = size
    columns = -(-width // tile)
    row = torch.arange(height, device=device) // tile
    return row[:, None] * columns + torch.arange(width, device=device)[None, :] // tile


def tile_sums(heatmaps: Tensor, tile: int) -> Tensor:
    """Sum of the attribution in each tile: (B, H, W) to float64 (B, tiles)."""
    height, width = heatmaps.shape[-2:]
    padded = F.pad(
        in_double(heatmaps), (0, -width % tile, 0, -height % tile)
    )  # zeros: edge tiles sum what they have
    rows, columns = padded.shape[-2] // tile, padded.shape[-1] // tile
    return padded.view(-1, rows, tile, columns, tile).sum(dim=(2, 4)).flatten(1)


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit, (B, K) and (B,) to float32 (B,)."""
    return Classification().score(logits.float(), targets)


def target_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's softmax probability, (B, K) and (B,) to float32 (B,)."""
    return Classification().probability(logits, targets)


def gaussian_kernel(sigma: float, radius: int, device: torch.device | None = None) -> Tensor:
    """One-dimensional Gaussian of 2 radius + 1 taps that sum to 1, float32, made on the device
    (sending it would make the host wait).
    """
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def gaussian_blur(
    images: Tensor,
    sigma: float,
    border: Literal["constant", "reflect", "replicate"],
    radius: int | None = None,
) -> Tensor:
    """Gaussian blur over the last two axes, in two passes of a one-dimensional kernel.

    Args:
        images: (B, C, H, W), floating point.
        sigma: Standard deviation in pixels; 0 leaves the images as they are.
        border: What lies beyond the edge: ``"constant"`` (zeros), ``"reflect"`` or ``"replicate"``.
        radius: Where the kernel ends, in pixels; by default at 4 sigma.

    Returns:
        (B, C, H, W). A picture can be reflected once only, so that with ``"reflect"`` the kernel
        ends at the picture's side at the latest.
    """
    if sigma < 0.1:  # the neighbours' weights are below 1e-21
        return images
    wanted = math.ceil(4 * sigma) if radius is None else radius
    longest = [side - 1 if border == "reflect" else wanted for side in images.shape[-2:]]
    height, width = (min(wanted, side) for side in longest)
    padded = F.pad(images, (width, width, height, height), mode=border)
    channels = images.shape[1]
    row = gaussian_kernel(sigma, width, images.device).to(images).view(1, 1, 1, -1)
    column = gaussian_kernel(sigma, height, images.device).to(images).view(1, 1, -1, 1)
    # bfloat16 has too few digits for it; and on a CPU that has it, torch 2.14's convolution does
    # not come back from some of these shapes (3 channels in channels_last, 27 taps, 82 pixels).
    with torch.autocast(images.device.type, enabled=False):
        rows = F.conv2d(padded, row.expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(rows, column.expand(channels, 1, -1, 1), groups=channels)


def removal_ranks(
    values: Tensor, most_first: bool, tie_keys: Sequence[str] | None = None
) -> Tensor:
    """When each tile goes: values (B, tiles) to int32 (B, tiles); equal tiles go in reading order
    either way, or in an order that follows from the image's key.
    """
    if tie_keys is not None:
        places = torch.stack(
            [
                torch.randperm(values.shape[1], generator=generator_for("ties", key))
                for key in tie_keys
            ]
        ).to(values.device)
        shuffled = removal_ranks(values.gather(1, places), most_first)
        return torch.empty_like(shuffled).scatter_(1, places, shuffled)
    order = values.argsort(dim=1, descending=most_first, stable=True)
    step = torch.arange(values.shape[1], device=values.device, dtype=torch.int32).expand_as(order)
    return torch.empty_like(step.contiguous()).scatter_(1, order, step)


def tie_order(ties: Ties, seed: int) -> str:
    """How equal tiles go, in words."""
    if ties == "reading_order":
        return "reading order"
    return f"random order (seed {seed} and the sample's key)"


def with_tiles_removed(images: Tensor, fill: Tensor, gone: Tensor, tile: int) -> Tensor:
    """Images with some of their tiles replaced, (B, C, H, W).

    Args:
        images: Originals (B, C, H, W).
        fill: What removed pixels become, broadcastable to the images.
        gone: Which tiles are removed, bool (B, tiles).
        tile: Side of a tile in pixels.
    """
    index = tile_index((images.shape[-2], images.shape[-1]), tile, images.device).flatten()
    removed = gone[:, index].view(len(images), 1, *images.shape[-2:])  # (B, 1, H, W)
    return torch.where(removed, fill, images)


@torch.inference_mode()
def score_jobs(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    fill: Tensor,
    picture: Tensor,
    removed: Callable[[Tensor], Tensor],
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    tile: int,
    forward_batch_size: int,
) -> Tensor:
    """Score perturbed images, each job one image with some of its tiles removed.

    Args:
        network: From images to outputs, such as ``classifier.folded()``.
        images: Originals (B, 3, H, W).
        fill: What removed pixels become: one colour for all, (1, C, 1, 1), one per image, (B, C, 1,
            1), or pictures, (B, C, H, W).
        picture: Which image each job perturbs, int64 (J,).
        removed: For jobs (c,), which tiles are gone: bool (c, tiles).
        score: From outputs (c, ...) and the jobs' images (c,) to one number per job, (c,).
        tile: Side of a tile in pixels.
        forward_batch_size: Images per forward pass.

    Returns:
        float32 (J,).
    """
    fill = fill.expand(len(images), -1, -1, -1)
    scores = images.new_zeros(len(picture), dtype=torch.float32)
    for jobs in torch.arange(len(picture), device=images.device).split(forward_batch_size):
        which = picture[jobs]
        # Every version is made from its original: that costs about 1 % of the forward pass
        # (benchmarks/metrics.py).
        changed = with_tiles_removed(images[which], fill[which], removed(jobs), tile)
        scores[jobs] = score(network(changed), which).to(scores)
    return scores


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
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Score every version of every image, in forward passes that run across images and versions
    alike.

    Args:
        classifier: The frozen classifier.
        images: Originals (B, 3, H, W).
        targets: What ``score`` compares with, one row per image; usually its target (B, ...).
        fill: What removed pixels become, see :func:`score_jobs`.
        removed: For jobs (c,), numbered ``image * versions + version``, which tiles are gone: bool
            (c, tiles).
        versions: Number of perturbed versions of each image.
        tile: Side of a tile in pixels.
        forward_batch_size: Images per forward pass.
        score: From outputs and targets to one number per image; by default the probability of the
            classifier's objective.

    Returns:
        float32 (B, versions).
    """
    measured = classifier.objective.probability if score is None else score
    picture = torch.arange(len(images), device=images.device).repeat_interleave(versions)
    scores = score_jobs(
        classifier.folded(),
        images,
        fill,
        picture,
        removed,
        lambda outputs, which: measured(outputs, targets[which]),
        tile=tile,
        forward_batch_size=forward_batch_size,
    )
    return scores.view(len(images), versions)


def removal_curves(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    fill: Tensor,
    ranks: Tensor,
    steps: Tensor,
    *,
    tile: int = 1,
    forward_batch_size: int,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Scores on the way as tiles go one after the other.

    Args:
        classifier: The frozen classifier.
        images: Originals (B, 3, H, W).
        targets: What ``score`` compares with, one row per image.
        fill: What removed pixels become, see :func:`score_jobs`.
        ranks: When each tile goes in each of D orders (B, D, tiles), see :func:`removal_ranks`.
        steps: How many tiles are gone at each point (K,).
        tile: Side of a tile in pixels.
        forward_batch_size: Images per forward pass.
        score: From outputs and targets to one number per image; by default the probability of the
            classifier's objective.

    Returns:
        float32 (B, D, K).
    """
    points, versions = max(len(steps), 1), ranks.shape[1] * len(steps)
    ranks, steps = ranks.to(images.device), steps.to(images.device)

    def removed(jobs: Tensor) -> Tensor:
        order = (jobs % versions) // points
        return ranks[jobs // versions, order] < steps[jobs % points][:, None]

    scores = perturbed_scores(
        classifier,
        images,
        targets,
        fill,
        removed,
        versions,
        tile=tile,
        forward_batch_size=forward_batch_size,
        score=score,
    )
    return scores.view(len(images), ranks.shape[1], len(steps))


@torch.inference_mode()
def end_points(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor | None,
    fill: Tensor,
    forward_batch_size: int,
) -> Tensor:
    """What every curve from the images to ``fill`` begins and ends with, whatever the order.

    Returns:
        float64 (B, T + 3): the target (the one given, or the predicted one where ``targets`` is
        None) in as many columns as it has numbers, one for a class; its probability on the image
        and on the fill; and the highest one on the image.
    """
    network, objective = classifier.folded(), classifier.objective
    parts = []
    for part in torch.arange(len(images), device=images.device).split(forward_batch_size):
        outputs = network(images[part])
        asked = objective.predicted(outputs) if targets is None else targets[part]
        removed = network(fill.expand_as(images)[part].contiguous())
        ends = [objective.probability(outputs, asked), objective.probability(removed, asked)]
        columns = [asked.flatten(1) if asked.ndim > 1 else asked[:, None]]
        columns += [end[:, None] for end in (*ends, objective.highest(outputs))]
        parts.append(torch.cat([in_double(column) for column in columns], dim=1))
    return torch.cat(parts)


def targets_of(ends: Tensor, like: Tensor) -> Tensor:
    """The targets in what :func:`end_points` gave, of the shape and dtype of others."""
    return ends[:, :-3].reshape(like.shape).to(like)

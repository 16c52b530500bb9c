"""Information bottleneck of a feature map: mixing with noise, and the information that remains, in
bits.

Equations 2, 5 and 7 of Schulz et al., "Restricting the Flow" (ICLR 2020). Pure functions over
tensors; no parameters live here. ``R`` is the feature map, ``eps ~ N(mean, std^2)`` the noise with
R's own statistics, ``Z = lambda R + (1 - lambda) eps``. Everything is written in ``1 - lambda`` as
well as ``lambda``, because their difference from 1 is lost in float32 exactly where the information
is large.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_iba.classifier.layout import Layout
from lit_iba.errors import InputError
from lit_iba.perturbation import gaussian_blur, gaussian_kernel

NATS_PER_BIT = math.log(2.0)
SMALLEST_KEEP = 1e-7  # 1 - lambda below this would make its logarithm meaningless in float32


def blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over the last two axes with reflection at the border; (B, C, h, w) to the same
    shape.

    The kernel has the authors' size, 2 round(2 sigma) + 1. Maps too small to reflect are extended
    by their edge values.
    """
    if sigma <= 0:
        return maps
    if maps.device.type != "cpu":
        return _blur_by_shifts(maps, sigma)
    radius = round(2 * sigma)
    border: Literal["reflect", "replicate"] = (
        "reflect" if radius < min(maps.shape[-2:]) else "replicate"
    )
    return gaussian_blur(maps, sigma, border, radius)


def _blur_by_shifts(maps: Tensor, sigma: float) -> Tensor:
    """:func:`blur` as weighted sums of shifted maps, in the order of memory that the maps have.

    Depthwise convolutions of a GPU want channels apart, and bringing maps into that order and back
    seems to be what 70 of the 477 ms of a batch of Per-Sample IBA went to on an H100.
    """
    last = maps.is_contiguous(memory_format=torch.channels_last)
    rows = maps.movedim(1, -1) if last else maps
    axes = (1, 2) if last else (2, 3)
    weights = gaussian_kernel(sigma, round(2 * sigma)).tolist()
    reflects = len(weights) // 2 < min(maps.shape[-2:])
    for axis in axes:
        rows = _Shifts.apply(rows, weights, axis, reflects)
    return rows.movedim(-1, 1) if last else rows


class _Shifts(torch.autograd.Function):
    """A symmetric kernel along one axis, with reflection or the edge values beyond the ends; and
    its transpose.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: list[float], axis: int, reflects: bool) -> Tensor:
        ctx.weights, ctx.axis, ctx.reflects = weights, axis, reflects
        radius, length = len(weights) // 2, x.shape[axis]
        if radius == 0:
            return x.clone()
        before, after = x.narrow(axis, 0, 1), x.narrow(axis, length - 1, 1)
        if reflects:
            ends = [
                x.narrow(axis, 1, radius).flip(axis),
                x.narrow(axis, length - 1 - radius, radius).flip(axis),
            ]
        else:
            ends = [
                end.expand(*x.shape[:axis], radius, *x.shape[axis + 1 :]) for end in (before, after)
            ]
        padded = torch.cat([ends[0], x, ends[1]], dim=axis)
        total = padded.narrow(axis, radius, length) * weights[radius]
        for k in range(1, radius + 1):
            both = padded.narrow(axis, radius - k, length) + padded.narrow(axis, radius + k, length)
            total.add_(both, alpha=weights[radius + k])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), weights, axis = gradients, ctx.weights, ctx.axis
        radius, length = len(weights) // 2, gradient.shape[axis]
        if radius == 0:
            return gradient.clone(), None, None, None
        padded = gradient.new_zeros(
            *gradient.shape[:axis], length + 2 * radius, *gradient.shape[axis + 1 :]
        )
        for k, weight in enumerate(weights):
            padded.narrow(axis, k, length).add_(gradient, alpha=weight)
        of_x = padded.narrow(axis, radius, length).clone()
        before, after = padded.narrow(axis, 0, radius), padded.narrow(axis, radius + length, radius)
        if ctx.reflects:
            of_x.narrow(axis, 1, radius).add_(before.flip(axis))
            of_x.narrow(axis, length - 1 - radius, radius).add_(after.flip(axis))
        else:
            of_x.narrow(axis, 0, 1).add_(before.sum(dim=axis, keepdim=True))
            of_x.narrow(axis, length - 1, 1).add_(after.sum(dim=axis, keepdim=True))
        return of_x, None, None, None


def channels_last(features: Tensor) -> Tensor:
    """(B, C, h, w) with its channels side by side in memory; other shapes contiguous."""
    return features.contiguous(
        memory_format=torch.channels_last if features.ndim == 4 else torch.contiguous_format
    )


def elements(values: Tensor) -> tuple[int, ...]:
    """The dimensions of an image's own elements, all but the first: to reduce over them as they lie
    in memory, where ``flatten`` would first copy a tensor whose channels lie side by side.
    """
    return tuple(range(1, values.ndim))


def mask_from_logits(alpha: Tensor, sigma: float, layout: Layout) -> tuple[Tensor, Tensor]:
    """lambda and 1 - lambda from alpha: the smoothed sigmoid of equation 7.

    The kernel sums to 1, so that 1 - blur(sigmoid(alpha)) = blur(sigmoid(-alpha)): blurring the
    complement keeps its digits.

    Args:
        alpha: (B, *R), any real numbers.
        sigma: Standard deviation of the blur in positions; 0 for none. Prefix tokens are never
            blurred.
        layout: Where alpha's positions are.

    Returns:
        ``(keep, drop)``: lambda and 1 - lambda, both the shape of alpha, in [0, 1].
    """
    drop = torch.sigmoid(-alpha)
    if sigma > 0:
        prefix = layout.prefix_of(drop)
        drop = layout.ungrid(blur(layout.grid(drop), sigma), prefix)
    clamped = drop.clamp(SMALLEST_KEEP, 1.0)
    if drop.requires_grad:
        # The clamp passes the gradient: it would hold an alpha above 16.1 where it is.
        clamped = drop + (clamped - drop).detach()
    return 1 - clamped, clamped


def mix(
    r: Tensor,
    keep: Tensor,
    drop: Tensor,
    mean: Tensor,
    std: Tensor,
    unit_noise: Tensor,
    offset: Tensor | float = 0.0,
) -> Tensor:
    """Z = lambda R + (1 - lambda) eps, with eps = mean + std * unit_noise (equation 2). All
    broadcast.

    ``unit_noise`` may have a leading axis of copies: what does not depend on the copy is computed
    once, and the copies are made in one pass. ``offset`` is added.
    """
    kept, scale = keep * r + drop * mean + offset, drop * std
    if unit_noise.shape[1:] == kept.shape == scale.shape:
        return _AddNoise.apply(kept, scale, unit_noise)
    return torch.addcmul(kept, scale, unit_noise)


class _AddNoise(torch.autograd.Function):
    """kept + scale * noise for many copies of noise, in the memory order of its inputs.

    Its gradients are sums over copies, which autograd would leave to ``sum``: many times slower
    than this loop where channels lie side by side in memory, and a temporary the size of all
    copies.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        ctx.save_for_backward(noise)
        return torch.addcmul(kept, scale, noise)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (noise,) = gradients, ctx.saved_tensors
        if gradient.device.type != "cpu":  # there, launches cost more than a temporary
            return gradient.sum(dim=0), (gradient * noise).sum(dim=0), None
        of_kept, of_scale = gradient[0].clone(), gradient[0] * noise[0]
        for copy in range(1, len(noise)):
            of_kept += gradient[copy]
            of_scale.addcmul_(gradient[copy], noise[copy])
        return of_kept, of_scale, None


def information_nats(r: Tensor, keep: Tensor, drop: Tensor) -> Tensor:
    """KL[P(Z|R) || Q(Z)] per element, Q(Z) = N(mean, std^2) (equation 5).

    Args:
        r: standardised feature (R - mean) / std.
        keep: lambda in [0, 1), broadcastable to ``r``.
        drop: 1 - lambda, in (0, 1].

    Returns:
        Nats per element, >= 0, the shape of ``r``. Zero where lambda is zero. Bits are this over ln
        2.

    Example:
        >>> import torch
        >>> from lit_iba.iba import information_nats
        >>> r = torch.randn(2, 8, 4, 4)
        >>> keep = torch.zeros(2, 8, 4, 4)
        >>> float(information_nats(r, keep, 1 - keep).sum())  # nothing passes
        0.0
        >>> bool((information_nats(r, keep + 0.5, keep + 0.5) > 0).all())
        True
    """
    # With lambda written as 1 - drop: (drop^2 - 1) / 2 = -keep (1 + drop) / 2, exact where lambda
    # is small; and log1p(-keep) = log(drop) loses nothing there either.
    log_drop = torch.where(keep < 0.5, torch.log1p(-keep.clamp_max(0.75)), torch.log(drop))
    return (0.5 * (keep.square() * r.square() - keep * (1 + drop)) - log_drop).clamp_min(0)


def information_bits(r: Tensor, keep: Tensor, drop: Tensor) -> Tensor:
    """:func:`information_nats` in bits.

    Example:
        >>> import math, torch
        >>> from lit_iba.iba import information_bits, information_nats
        >>> r, half = torch.randn(2, 8, 4, 4), torch.full((2, 8, 4, 4), 0.5)
        >>> bits = information_bits(r, half, half)
        >>> bits.allclose(information_nats(r, half, half) / math.log(2))
        True
    """
    return information_nats(r, keep, drop) / NATS_PER_BIT


def bits_per_position(bits: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Sum over channels: (B, *R) to (B, h, w), and the bits (B,) in tokens that have no
    position.
    """
    prefix = layout.prefix_of(bits)
    return layout.grid(bits).sum(dim=-3), None if prefix is None else prefix.sum(dim=(-2, -1))


def require_positions(layout: Layout, layer: str) -> None:
    """Refuse a layer whose output has no positions."""
    if layout.kind == "BC" or layout.height * layout.width == 1:
        raise InputError(
            f"the output of layer {layer!r} has no positions, so that a bottleneck there gives no"
            " heatmap; choose a layer before the pooling"
        )

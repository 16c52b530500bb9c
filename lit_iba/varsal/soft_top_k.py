"""Differentiable top-k: the mask of the k largest scores with soft edges, exactly, without a
Sinkhorn loop.

SOFT (Xie et al., "Differentiable Top-k with Optimal Transport", NeurIPS 2020) transports n scores
to the two anchors {0, 1} with masses (n-k)/n and k/n under an entropic cost. With two anchors the
plan has one unknown: the mask is ``m_i = sigmoid((2 s_i - 1 + t) / eps)``, and the scalar t of each
row follows from ``sum m_i = k``. VarSal (submission to ICLR 2021, section 3.3) cuts its
perturbation masks with it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lit_iba.errors import InputError

ASKED_EVERY = (
    8  # iterations; elsewhere than on the CPU the question whether all is done makes the host wait
)
# a bisection halves a bracket of 1e9 temperatures to 1e-10 in so many; Newton needs 3 to 6 of them
ITERATIONS = 64
TOLERANCE = 1e-14  # of the sum, relative
CONSTANT = 1e-6  # scores that spread by less than this share of their size are equal up to rounding


def soft_top_k(scores: Tensor, k: Tensor, *, temperature: float) -> Tensor:
    """The entropic-transport mask of the k largest scores of each row.

    Computed in double precision inside and in float32 (float64 for float64 scores) outside, also
    under autocast. The gradient is that of the exact solution, by the implicit function theorem; k
    gets none.

    Args:
        scores: (B, n), finite, any floating type; larger is kept longer. See :func:`standardize`
            for their scale.
        k: (B,), each in (0, n), fractions allowed. Its values are checked on the CPU, where that
            keeps nobody waiting.
        temperature: The transport's eps > 0 in the unit of squared scores: small is hard, large is
            even.

    Returns:
        (B, n) in [0, 1]; row i sums to k_i.

    Raises:
        InputError: Shapes that do not fit, k outside (0, n), or a temperature that is not positive.
    """
    if scores.ndim != 2 or not scores.is_floating_point() or k.shape != scores.shape[:1]:
        raise InputError(
            f"soft_top_k takes float scores (B, n) and k (B,), but got {scores.dtype} of shape"
            f" {tuple(scores.shape)} and k of shape {tuple(k.shape)}"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature is {temperature}; it must be positive")
    if k.device.type == "cpu" and not bool(((k > 0) & (k < scores.shape[1])).all()):
        raise InputError(
            f"k is {k.tolist()}; each must be above 0 and below the number of scores,"
            f" {scores.shape[1]}"
        )
    wide = scores if scores.dtype == torch.float64 else scores.float()
    mask: Tensor = _SoftTopK.apply(wide, k.to(scores.device, torch.float64), float(temperature))
    return mask


def standardize(scores: Tensor) -> Tensor:
    """Scores of each image shifted and scaled to mean 0 and (population) standard deviation 1.

    Args:
        scores: (B, ...), any floating type.

    Returns:
        The same shape in float32 (float64 for float64); 0 with no gradient for an image whose
        scores are all equal.
    """
    values = (scores if scores.dtype == torch.float64 else scores.float()).flatten(1)
    centred = values - values.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    varies = variance > (CONSTANT * values.detach().abs().amax(dim=1, keepdim=True)).square()
    scale = torch.where(varies, torch.where(varies, variance, 1).rsqrt(), 0)
    return (centred * scale).view_as(scores)


class _SoftTopK(torch.autograd.Function):
    """The mask, and its gradient dm = m' (ds - weighted mean of ds) with weights m' = dm/dx."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, temperature: float) -> Tensor:
        ctx.slope = 2 / temperature
        # Rows that keep more than half are solved for what they drop: a sum near n would lose the
        # digits of n - k.
        dropped = scores.shape[1] - k
        flip = torch.ones_like(k).copysign(dropped - k)[:, None]
        x = scores.to(torch.float64, copy=True).mul_(ctx.slope * flip)
        offset = _balance(x, torch.minimum(k, dropped)[:, None] / scores.shape[1])
        mask = x.add_(offset).mul_(flip).sigmoid_().to(scores.dtype)
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        weight = mask * (1 - mask)  # m' in the unit of the logits
        total = weight.sum(dim=1, keepdim=True).clamp_min(
            torch.finfo(mask.dtype).tiny
        )  # all 0 where all are saturated
        mean = (weight * gradient).sum(dim=1, keepdim=True) / total
        return ctx.slope * weight * (gradient - mean), None, None


def _balance(x: Tensor, share: Tensor) -> Tensor:
    """The offset u with mean_i sigmoid(x_i + u) = share, by Newton's method within a bracket; (B,
    n) and (B, 1) to (B, 1).

    Newton runs on ``logit(mean sigmoid(x + u)) = logit(share)``, which is linear in u for equal x
    and nearly so for bell-shaped ones. Where it leaves the bracket or shrinks slower than bisection
    (between far clusters of scores), the bracket is halved. A row that has converged stays as it
    is, so that no row depends on the others.
    """
    target = torch.logit(share)
    low, high = target - x.amax(dim=1, keepdim=True), target - x.amin(dim=1, keepdim=True)
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    u = (target * torch.sqrt(1 + math.pi / 8 * variance) - mean).clamp(
        low, high
    )  # the root for normal x, nearly
    step = high - low
    work = torch.empty_like(x)
    for iteration in range(ITERATIONS):
        m = torch.add(x, u, out=work).sigmoid_()
        kept = m.mean(dim=1, keepdim=True)
        spread = kept - m.square_().mean(dim=1, keepdim=True)  # mean of m (1 - m)
        done = (kept - share).abs() <= TOLERANCE * share
        asks = x.device.type == "cpu" or iteration % ASKED_EVERY == ASKED_EVERY - 1
        if asks and bool(done.all()):
            break
        low, high = torch.where(kept < share, u, low), torch.where(kept > share, u, high)
        newton = (target - torch.logit(kept)) * kept * (1 - kept) / spread
        good = (u + newton > low) & (u + newton < high) & (newton.abs() < step.abs() / 2)
        step = torch.where(good, newton, (low + high) / 2 - u)
        u = torch.where(done, u, u + step)
    return u

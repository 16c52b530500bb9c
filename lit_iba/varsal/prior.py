"""Gaussian priors of a saliency map, and the exact divergence of VarSal's posterior from them.

The soft-TV prior of VarSal (submission to ICLR 2021, section 3.2) is N(0, K_h (x) K_w): K is
tridiagonal, 1 on the diagonal and alpha beside it, so that neighbouring pixels are alike. The
divergence is the whole of equation 8, with the 1/2 and the
constants that equations 7 and 12 leave out: it is 0 where posterior and prior agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.errors import InputError


class SoftTVPrior:
    """Zero-mean Gaussian whose neighbouring pixels are correlated by alpha, diagonal ones by alpha
    squared.

    With K = L L^T the quadratic term is ``|L_h^-1 mu L_w^-T|^2``, two matrix products of O(h^2 w +
    h w^2); the trace is ``diag(K_h^-1)^T nu diag(K_w^-1)``. The factors are made once in double
    precision and kept for each device and dtype.

    Args:
        height: h, in pixels.
        width: w, in pixels.
        alpha: Correlation of neighbours (0.4 in the paper).

    Raises:
        InputError: alpha outside (-1/2, 1/2), or a size below 1.

    Example:
        >>> import torch
        >>> from lit_iba.varsal import SoftTVPrior
        >>> prior, log_variance = SoftTVPrior(16, 16, alpha=0.4), torch.zeros(1, 16, 16)
        >>> smooth = torch.ones(1, 16, 16)
        >>> checked = smooth.clone()
        >>> checked[:, ::2, ::2] = -1.0
        >>> bool(prior.kl(checked, log_variance) > prior.kl(smooth, log_variance))
        True
    """

    def __init__(self, height: int, width: int, alpha: float = 0.4) -> None:
        check_counts(height=height, width=width)
        if not -0.5 < alpha < 0.5:
            raise InputError(
                f"alpha is {alpha}; it must lie between -1/2 and 1/2, because the covariance's"
                " factors have the eigenvalues 1 + 2 alpha cos(pi j / (n + 1)) and would not stay"
                " positive definite at every size n"
            )
        self.height, self.width, self.alpha = height, width, alpha
        factors = [_cholesky(size, alpha) for size in (height, width)]
        self._factors = tuple(factors)
        self._inverses = tuple(
            torch.linalg.solve_triangular(f, torch.eye(len(f)).double(), upper=False)
            for f in factors
        )
        log_determinants = [2 * float(factor.diagonal().log().sum()) for factor in factors]
        self._constant = log_determinants[0] / height + log_determinants[1] / width - 1  # per pixel
        self._kept: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, diag exp(log_variance)) || prior) of each map.

        Args:
            mean: mu, (B, h, w), any floating type; computed in float32 at least, also under
                autocast.
            log_variance: log nu, the same shape.

        Returns:
            Nats, (B,).

        Raises:
            InputError: Another shape than the prior's.
        """
        mean, log_variance = _checked(mean, log_variance, self.height, self.width)
        rows, columns, precision = self._constants(mean)
        with torch.autocast(mean.device.type, enabled=False):
            white = rows @ mean @ columns.T  # (B, h, w), unit Gaussian under the prior
        # Pixel by pixel first: the sums of the single terms are large and cancel.
        trace = precision * log_variance.exp() - log_variance + self._constant
        return 0.5 * (trace + white.square()).sum(dim=(1, 2))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Maps drawn from the prior, float32 (count, h, w) on the generator's device."""
        device = generator.device
        unit = torch.randn(
            count, self.height, self.width, generator=generator, device=device, dtype=torch.float32
        )
        rows, columns = (factor.to(device, torch.float32) for factor in self._factors)
        return rows @ unit @ columns.T

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_h^-1, L_w^-1 and the diagonal of the inverse covariance (h, w)."""
        place = (like.device, like.dtype)
        if place not in self._kept:
            rows, columns = self._inverses
            precision = torch.outer(rows.square().sum(dim=0), columns.square().sum(dim=0))
            with torch.inference_mode(
                False
            ):  # a validation may come first, and what it makes cannot be trained with
                self._kept[place] = tuple(
                    c.to(*place, copy=True) for c in (rows, columns, precision)
                )  # type: ignore[assignment]
        return self._kept[place]


class StandardNormalPrior:
    """Independent N(0, 1) pixels: the paper's ablation (figures 3 and 5).

    Args:
        height: h, in pixels.
        width: w, in pixels.

    Example:
        >>> import torch
        >>> from lit_iba.varsal import StandardNormalPrior
        >>> zero = torch.zeros(2, 16, 16)
        >>> StandardNormalPrior(16, 16).kl(zero, log_variance=zero)  # of the prior itself
        tensor([0., 0.])
    """

    def __init__(self, height: int, width: int) -> None:
        check_counts(height=height, width=width)
        self.height, self.width = height, width

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """As :meth:`SoftTVPrior.kl`."""
        mean, log_variance = _checked(mean, log_variance, self.height, self.width)
        return 0.5 * (torch.expm1(log_variance) - log_variance + mean.square()).sum(dim=(1, 2))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """As :meth:`SoftTVPrior.sample`."""
        return torch.randn(
            count,
            self.height,
            self.width,
            generator=generator,
            device=generator.device,
            dtype=torch.float32,
        )


def _cholesky(size: int, alpha: float) -> Tensor:
    """L of the tridiagonal K = L L^T: 1 on K's diagonal, alpha beside it; float64 (size, size)."""
    diagonal, below = [1.0], list[float]()
    for _ in range(size - 1):
        below.append(alpha / diagonal[-1])
        diagonal.append(math.sqrt(1 - below[-1] ** 2))
    factor = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    return factor + torch.diag(torch.tensor(below, dtype=torch.float64), -1) if below else factor


def _checked(mean: Tensor, log_variance: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    if mean.shape[1:] != (height, width) or mean.shape != log_variance.shape:
        raise InputError(
            f"mean and log_variance have the shapes {tuple(mean.shape)} and"
            f" {tuple(log_variance.shape)}; the prior is for maps (B, {height}, {width})"
        )
    if torch.promote_types(mean.dtype, log_variance.dtype) == torch.float64:
        return mean.double(), log_variance.double()
    return mean.float(), log_variance.float()

"""What a map's uncertainty says about its error: correlation, calibration, and what is gained by
withholding uncertain maps.

The VarSal paper (section 4.5 and figure 7) shows uncertainties and leaves the relation open. Pure
functions over NumPy arrays; rows are images, columns are conditions (clean, or a corruption at a
severity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata
from torch import Tensor

from lit_iba.metrics.sanity_check import rank_correlation
from lit_iba.report.significance import CONFIDENCE, FEWEST_RESAMPLED

Array = NDArray[np.float64]
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def mean_deviation(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """An image's uncertainty as one number, (B, H, W) twice to (B,) twice.

    Returns:
        The posterior's standard deviation averaged over the pixels; and the same divided by the
        standard deviation over the pixels of the mean map, because only the order of s matters to
        the mask and its scale is free.
    """
    level = deviation.double().mean(dim=(1, 2))
    spread = mean.double().std(dim=(1, 2), correction=0)
    return level, level / spread.clamp_min(1e-12)


def doubt(log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """How unsure the classifier itself is, (B, K) to (B,) twice: what it costs nothing to know, and
    what a map's uncertainty is therefore read against.

    Returns:
        Entropy of the prediction in nats, and 1 - the highest probability (least confidence).
    """
    log_p = log_probabilities.double()
    p = log_p.exp()
    return torch.special.entr(p).sum(dim=1), 1 - p.amax(dim=1)


def border_correlation(mean: Tensor, deviation: Tensor) -> Tensor:
    """Is a map less certain where it changes? (B, H, W) twice to (B,).

    VarSal 4.5 sees the uncertainty "at the borderline of the object".

    Returns:
        Spearman's correlation over the pixels of the deviation and the size of the mean map's
        gradient (central differences).
    """
    down, right = torch.gradient(mean.double(), dim=(1, 2))
    return rank_correlation(deviation.double(), torch.hypot(down, right))


@dataclass(frozen=True)
class Correlation:
    """A correlation with its bootstrap interval; all None where a side is constant or images are
    too few.
    """

    value: float | None
    low: float | None
    high: float | None


def correlation(
    x: Array,
    y: Array,
    kind: str,
    resamples: int = 1000,
    seed: int = 0,
    given: Array | None = None,
) -> Correlation:
    """Correlation over all entries, with a 95 % percentile bootstrap over images.

    An image's conditions depend on each other, so that the bootstrap draws whole rows.

    Args:
        x: (N,) or (N, C), images by conditions.
        y: The same shape.
        kind: ``"pearson"`` or ``"spearman"``.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        given: The same shape: the correlation of what x and y have besides it (partial
            correlation); None takes the plain one.
    """
    sides = [side.reshape(len(side), -1) for side in (x, y, given) if side is not None]
    if len(x) < FEWEST_RESAMPLED or any(np.ptp(side) == 0 for side in sides):
        return Correlation(None, None, None)

    def of_rows(rows: NDArray[np.int64], axis: int = -1) -> Array:
        """(..., N) numbers of images to (...,)."""
        taken = [side[rows].reshape(*rows.shape[:-1], -1) for side in sides]
        if kind == "spearman":
            taken = [rankdata(side, axis=-1) for side in taken]
        a, b, *rest = (side - side.mean(axis=-1, keepdims=True) for side in taken)
        for c in rest:  # what follows linearly from it is taken out of both
            a, b = (side - _share(side, c)[..., None] * c for side in (a, b))
        size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
        # A resample of one image many times over has no spread, and says nothing: 0.
        return np.divide((a * b).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0)

    everyone = np.arange(len(x))
    value = float(of_rows(everyone))
    at_once = max(1, 2_000_000 // sides[0].size)
    interval = bootstrap(
        (everyone,),
        of_rows,
        n_resamples=resamples,
        batch=at_once,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Correlation(value, float(interval.low), float(interval.high))


def _share(side: Array, given: Array) -> Array:
    """The slope of a centred side on a centred given, over the last axis; 0 where that is
    constant.
    """
    size = (given * given).sum(axis=-1)
    return np.divide((side * given).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0)


def band_ranks(outcomes: Array, tested: Array) -> Array:
    """Where a tested outcome stands among the outcomes of sampled maps.

    With S samples the rank is ``(number below + (number equal + 1) / 2) / (S + 1)``, in (0, 1). If
    the tested outcome were one more draw from the same distribution, it would take the S + 1 values
    ``(r + 1/2) / (S + 1)`` equally often.

    Args:
        outcomes: (N, S), of S sampled maps per image.
        tested: (N,), the outcome to place.

    Returns:
        (N,).
    """
    below = (outcomes < tested[:, None]).sum(axis=1)
    equal = (outcomes == tested[:, None]).sum(axis=1)
    return np.asarray((below + (equal + 1) / 2) / (outcomes.shape[1] + 1), dtype=np.float64)


def coverage(ranks: Array, levels: Sequence[float] = LEVELS) -> list[float]:
    """Share of the images whose tested outcome lies in the predicted central band, at each nominal
    level.

    The central band of level p holds the ranks with ``|rank - 1/2| <= p / 2`` (see
    :func:`band_ranks`). A posterior whose samples fare as the tested map does covers p of the
    images at every level p. With S = 19 samples that holds exactly at 10, 20, ... 90 %; with other
    numbers up to 1 / (S + 1).
    """
    return [float((np.abs(ranks - 0.5) <= level / 2 + 1e-9).mean()) for level in levels]


@dataclass(frozen=True)
class AbstainCurve:
    """Mean error of the maps kept when the most uncertain are withheld.

    Args:
        kept: (N,) shares kept, 1/N to 1.
        error: (N,) mean error of the share kept, the least uncertain first.
        oracle: (N,) likewise, had the errors themselves been known.
        random: Mean error of any share chosen blindly.
    """

    kept: Array
    error: Array
    oracle: Array
    random: float

    @property
    def area(self) -> float:
        """Mean of the curve over the shares kept; lower is better."""
        return float(self.error.mean())

    @property
    def oracle_area(self) -> float:
        """The least area there can be."""
        return float(self.oracle.mean())

    @property
    def gain(self) -> float | None:
        """How much of what an oracle would gain over blind choice is gained: 1 as the oracle, 0 as
        chance, below 0 worse.
        """
        room = self.random - self.oracle_area
        return (self.random - self.area) / room if room > 0 else None


def abstain_curve(error: Array, uncertainty: Array) -> AbstainCurve:
    """The curve of errors (N,) by uncertainties (N,); equal uncertainties are withheld in random
    order, in expectation.
    """
    values, group = np.unique(uncertainty, return_inverse=True)
    totals, counts = (
        np.bincount(group, error, len(values)),
        np.bincount(group, minlength=len(values)),
    )
    in_order = (totals / counts)[np.sort(group)]
    number = np.arange(1, len(error) + 1)
    return AbstainCurve(
        kept=number / len(error),
        error=in_order.cumsum() / number,
        oracle=np.sort(error).cumsum() / number,
        random=float(error.mean()),
    )

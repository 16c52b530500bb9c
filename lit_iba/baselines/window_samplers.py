"""What a window of an image might have looked like: samples given the pixels around it, or taken
from other images.

Zintgraf et al., "Visualizing Deep Neural Network Decisions: Prediction Difference Analysis" (ICLR
2017), section 3.1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lit_iba.baselines.patches import PatchStatistics
from lit_iba.errors import InputError

# share of the mean variance added to each variance: smooth photographs make the covariance near
# singular
RIDGE = 1e-6


class WindowSampler(Protocol):
    """Draws what could stand in windows of an image; ``side`` is the least size of the image."""

    side: int

    def draw(
        self, image: Tensor, generator: torch.Generator, top: int, lefts: list[int], samples: int
    ) -> Tensor:
        """Contents of the windows that begin at row ``top`` and each of ``lefts``, (windows,
        samples, C, k, k).
        """
        ...


class ConditionalSampler:
    """Gaussian given the pixels around, one per colour channel, clipped to the range of the data.

    A window sits in the middle of its patch; at the picture's edge, where the patch is shifted
    inside, it does not.

    Args:
        statistics: Of patches of ``window + 2 * border`` pixels.
        window: Side of the windows in pixels.
        border: Pixels around a window on which it depends.
    """

    def __init__(self, statistics: PatchStatistics, window: int, border: int) -> None:
        self.statistics, self.window, self.border, self.side = (
            statistics,
            window,
            border,
            window + 2 * border,
        )
        self._conditionals: dict[
            tuple[int, int], WindowConditional
        ] = {}  # by place in the patch: some 25

    def draw(
        self, image: Tensor, generator: torch.Generator, top: int, lefts: list[int], samples: int
    ) -> Tensor:
        """See :class:`WindowSampler`."""
        noise = torch.randn(
            (len(lefts), samples, len(image), self.window, self.window),
            generator=generator,
            device=image.device,
            dtype=torch.float32,
        ).to(image)
        patch_top = min(max(top - self.border, 0), image.shape[-2] - self.side)
        patch_lefts = [
            min(max(left - self.border, 0), image.shape[-1] - self.side) for left in lefts
        ]
        patches = image[:, patch_top : patch_top + self.side].unfold(2, self.side, 1)[
            :, :, patch_lefts
        ]
        patches = patches.permute(2, 0, 1, 3)  # (windows, C, side, side)
        windows = torch.empty_like(noise)
        offsets = torch.tensor(
            [left - start for left, start in zip(lefts, patch_lefts, strict=True)]
        )
        for (
            offset
        ) in offsets.unique().tolist():  # one for the interior, a few for the left and right edge
            chosen = (offsets == offset).nonzero().flatten().to(image.device)
            place = (top - patch_top, offset)
            if place not in self._conditionals:
                self._conditionals[place] = WindowConditional(self.statistics, self.window, *place)
            windows[chosen] = (
                self._conditionals[place].to(image).sample(patches[chosen], noise[chosen])
            )
        return windows


class MarginalSampler:
    """The same window of an image drawn from others.

    Args:
        references: The other images, (n, C, H, W).
        window: Side of the windows in pixels.

    Raises:
        InputError: There are no images.
    """

    def __init__(self, references: Tensor, window: int) -> None:
        if references.ndim != 4 or not len(references):
            raise InputError(
                f"references are of shape {tuple(references.shape)}; give images (n, 3, H, W)"
            )
        self.references, self.side = references, window

    def draw(
        self, image: Tensor, generator: torch.Generator, top: int, lefts: list[int], samples: int
    ) -> Tensor:
        """See :class:`WindowSampler`."""
        self.references = self.references.to(image)
        if self.references.shape[1:] != image.shape:
            raise InputError(
                f"the references are {tuple(self.references.shape[1:])}, but the image is"
                f" {tuple(image.shape)}; give references of its size"
            )
        which = torch.randint(
            len(self.references), (len(lefts), samples), generator=generator, device=image.device
        )
        rows = self.references[:, :, top : top + self.side].unfold(3, self.side, 1)[:, :, :, lefts]
        # (n, C, k, windows, k) to (n, windows, C, k, k)
        return rows.permute(0, 3, 1, 2, 4)[
            which, torch.arange(len(lefts), device=image.device)[:, None]
        ]


class WindowConditional:
    """Gaussian of the pixels of a window given the other pixels of its patch, per channel, float32.

    Args:
        statistics: Of the patches.
        window: Side of the window in pixels.
        top: Row of the patch at which the window begins.
        left: Column, likewise.
    """

    def __init__(self, statistics: PatchStatistics, window: int, top: int, left: int) -> None:
        side = statistics.side
        inside = torch.zeros(side, side, dtype=torch.bool)
        inside[top : top + window, left : left + window] = True
        self.around = (~inside.flatten()).nonzero().flatten()
        hidden = inside.flatten().nonzero().flatten()
        order = torch.cat([self.around, hidden])
        covariance = statistics.covariance[:, order[:, None], order]
        variance = covariance.diagonal(dim1=1, dim2=2)
        ridge = RIDGE * variance.mean(dim=1, keepdim=True).clamp_min(
            torch.finfo(torch.float32).tiny
        )
        # With the window last, one Cholesky factor holds both: L21 L11^-1 = S21 S11^-1, and L22 is
        # the conditional's factor.
        factor = torch.linalg.cholesky(covariance + torch.diag_embed(ridge.expand_as(variance)))
        known = len(self.around)
        corner = factor[:, :known, :known]
        regression = torch.linalg.solve_triangular(
            corner, factor[:, known:, :known], upper=False, left=False
        )
        self.regression = regression.float()  # (C, window^2, around)
        self.factor = factor[:, known:, known:].float()  # (C, window^2, window^2)
        self.mean_around, self.mean = (
            statistics.mean[:, self.around].float(),
            statistics.mean[:, hidden].float(),
        )
        self.low, self.high = statistics.low[:, hidden].float(), statistics.high[:, hidden].float()

    def to(self, image: Tensor) -> WindowConditional:
        """Move to an image's device and precision, in place."""
        for name, value in vars(self).items():
            setattr(self, name, value.to(image if value.is_floating_point() else image.device))
        return self

    def sample(self, patches: Tensor, unit_noise: Tensor) -> Tensor:
        """Draw windows, clipped to the range that the data have there.

        Args:
            patches: The patches around, (N, C, side, side).
            unit_noise: Standard normal (N, S, C, window, window).

        Returns:
            (N, S, C, window, window).
        """
        known = patches.flatten(2)[:, :, self.around] - self.mean_around
        mean = self.mean + torch.einsum("cwa,nca->ncw", self.regression, known)
        deviation = torch.einsum("cwv,nscv->nscw", self.factor, unit_noise.flatten(3))
        return torch.clamp(mean[:, None] + deviation, self.low, self.high).view_as(unit_noise)

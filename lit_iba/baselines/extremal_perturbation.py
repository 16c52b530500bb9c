"""Extremal perturbations: the smooth mask of a given area that excites the class most.

Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks"
(ICCV 2019); what the paper leaves open follows the authors' published settings. Masks are smooth by
construction (a max-convolution of a coarse grid of parameters), and their area is held by comparing
the sorted mask with one of the area wanted. The code is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer
from lit_iba.objectives.classes import needs_classes
from lit_iba.perturbation import gaussian_blur

LEVELS = 8  # of the perturbation pyramid, the image itself included
STRONGEST_BLUR = 20.0  # standard deviation in pixels of the pyramid's other end
TEMPERATURE = 20.0  # inverse temperature of the smooth maximum


class ExtremalPerturbation(Explainer):
    """Extremal perturbation: optimises one mask per area and image, and gives their sum over areas.

    An image costs ``steps`` x number of areas forward and backward passes (twice as many for
    ``variant="dual"``).

    Args:
        classifier: The network to explain.
        areas: Shares of the picture that the masks keep, in (0, 1). The pointing game of the paper
            uses [0.025, 0.05, 0.1, 0.2] on VOC and [0.018, 0.025, 0.05, 0.1] on COCO; InputIBA
            compares with [0.3].
        variant: ``"preserve"``: the class is to survive inside the mask; ``"delete"``: to vanish
            where the mask is perturbed; ``"dual"``: both.
        reward: ``"logit"`` of the target (the score, for other objectives than classes), or
            ``"contrastive"``: minus the largest other logit.
        perturbation: ``"blur"``, or ``"fade"`` to zero, the data set's mean colour.
        steps: Of gradient ascent.
        learning_rate: Of SGD.
        momentum: Of SGD; the dampening is the same.
        cell: Side in pixels of the cells that carry a parameter.
        sigma: Radius in pixels of the smallest feature of a mask.
        area_weight: Weight of the area constraint at the start.
        area_growth: Factor of that weight from one step to the next.
        jitter: Whether every other step sees the picture mirrored.
        smoothing: Standard deviation of a Gaussian blur of the map, as a fraction of the picture's
            shorter side; the paper's benchmarks use 0.09.
        forward_batch_size: Images per forward pass.
        seed: Unused; nothing here is random.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.baselines import ExtremalPerturbation
        >>> explainer = ExtremalPerturbation(classifier, areas=[0.2], steps=5)
        >>> explainer.attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "extremal_perturbation"
    label: ClassVar[str] = "Extremal perturbation"
    lengths: ClassVar[tuple[str, ...]] = ("cell", "sigma")

    def __init__(
        self,
        classifier: FrozenClassifier,
        *,
        areas: Sequence[float] = (0.1,),
        variant: Literal["preserve", "delete", "dual"] = "preserve",
        reward: Literal["logit", "contrastive"] = "logit",
        perturbation: Literal["blur", "fade"] = "blur",
        steps: int = 800,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        cell: int = 7,
        sigma: int = 21,
        area_weight: float = 300.0,
        area_growth: float = 1.0035,
        jitter: bool = True,
        smoothing: float = 0.0,
        forward_batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        if not areas or not all(isinstance(area, int | float) and 0 < area < 1 for area in areas):
            raise InputError(
                f"areas is {areas!r}; give shares of the picture between 0 and 1, such as [0.1]"
            )
        check_literals(ExtremalPerturbation.__init__, locals())
        if reward == "contrastive":
            needs_classes(classifier.objective, "the contrastive reward", "reward='logit'")
        check_counts(steps=steps, cell=cell, sigma=sigma, forward_batch_size=forward_batch_size)
        check_numbers(0, exclusive=True, learning_rate=learning_rate, area_growth=area_growth)
        check_numbers(0, momentum=momentum, area_weight=area_weight, smoothing=smoothing)
        if momentum >= 1:
            raise InputError(f"momentum is {momentum}; it must be below 1")
        self.areas, self.variant, self.reward, self.perturbation = (
            tuple(areas),
            variant,
            reward,
            perturbation,
        )
        self.steps, self.learning_rate, self.momentum = steps, learning_rate, momentum
        self.cell, self.sigma, self.jitter, self.smoothing = cell, sigma, jitter, smoothing
        self.area_weight, self.area_growth = area_weight, area_growth
        self.forward_batch_size = forward_batch_size

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Sum over areas of the optimised masks, (B, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        # Without a pyramid, fading to zero is blurring with two levels of which the first is black.
        levels = (
            blur_pyramid(images)
            if self.perturbation == "blur"
            else torch.stack([0 * images, images], dim=1)
        )
        areas = torch.tensor(self.areas, device=images.device, dtype=torch.float32).repeat(
            len(images)
        )
        picture = torch.arange(len(images), device=images.device).repeat_interleave(len(self.areas))
        rows, columns = -(-size[0] // self.cell), -(-size[1] // self.cell)
        cells = torch.ones(
            len(areas), rows, columns, device=images.device, requires_grad=True, dtype=torch.float32
        )  # (B * areas, h, w)
        # SGD is elementwise and nothing couples two masks: each is optimised as if it were alone.
        sgd = torch.optim.SGD(
            [cells], lr=self.learning_rate, momentum=self.momentum, dampening=self.momentum
        )
        for step in range(self.steps):
            gradient = torch.zeros_like(cells)
            for jobs in torch.arange(len(areas), device=images.device).split(
                self.forward_batch_size
            ):
                with torch.enable_grad():
                    part = cells[jobs]
                    masks = smooth_masks(part, size, cell=self.cell, sigma=self.sigma)
                    inner = masks[:, self.sigma : -self.sigma, self.sigma : -self.sigma]
                    gain = self._rewards(inner, levels[picture[jobs]], targets[picture[jobs]], step)
                    excess = area_excess(masks, areas[jobs])
                    loss = (self.area_weight * self.area_growth**step * excess - gain).sum()
                    (gradient[jobs],) = torch.autograd.grad(loss, part)
            cells.grad = gradient
            sgd.step()
            with torch.no_grad():
                cells.clamp_(0, 1)
        maps = []
        with torch.no_grad():
            for part in cells.split(self.forward_batch_size):
                masks = smooth_masks(part, size, cell=self.cell, sigma=self.sigma)
                maps.append(masks[:, self.sigma : -self.sigma, self.sigma : -self.sigma])
            heatmaps = torch.cat(maps).view(len(images), len(self.areas), *size).sum(dim=1)
            return Attribution(
                gaussian_blur(heatmaps[:, None], self.smoothing * min(size), border="replicate")[
                    :, 0
                ].to(images.dtype)
            )

    def _rewards(self, masks: Tensor, levels: Tensor, targets: Tensor, step: int) -> Tensor:
        """What is to be maximised, (c,), for masks (c, H, W)."""
        total = masks.new_zeros(len(masks))
        for wanted, sign, shown in (("preserve", 1, masks), ("delete", -1, 1 - masks)):
            if self.variant in (wanted, "dual"):
                perturbed = perturb(levels, shown)
                logits = self.classifier(
                    perturbed.flip(-1) if self.jitter and step % 2 == 0 else perturbed
                )
                score = self.classifier.objective.score(logits.float(), targets)
                if self.reward == "contrastive":
                    score = score - logits.float().scatter(1, targets[:, None], -torch.inf).amax(
                        dim=1
                    )
                total = total + sign * score
        return total


def smooth_masks(
    cells: Tensor, size: tuple[int, int], *, cell: int, sigma: int, temperature: float = TEMPERATURE
) -> Tensor:
    """The smooth max-convolution of a grid of parameters (section 3.2): every bump of the result is
    at least sigma wide.

    Pixel u takes sum_i v_i softmax_i(T v_i) over the cells i around its own, where v_i = k(d(u, i))
    times the cell's parameter and k(d) = exp(-2 max(0, d / sigma - 1/2)^2), d from the pixel to the
    cell's centre.

    Args:
        cells: Parameters in [0, 1], (J, h, w); beyond them there are zeros.
        size: (H, W) of the picture, at most (h, w) * cell.
        cell: Side of a cell in pixels.
        sigma: In pixels; also the width of the margin around the picture.
        temperature: T, of the smooth maximum.

    Returns:
        (J, H + 2 sigma, W + 2 sigma) in [0, 1].
    """
    before = -(-sigma // cell)  # cells that the margin takes
    reach = 1 + before  # cells looked at in each direction
    after = [
        (side + sigma - 1) // cell + 1 - count
        for side, count in zip(size, cells.shape[1:], strict=True)
    ]
    padded = F.pad(cells, (before + reach, after[1] + reach, before + reach, after[0] + reach))
    inside = torch.arange(cell, device=cells.device, dtype=cells.dtype) - (cell - 1) / 2
    offset = torch.arange(-reach, reach + 1, device=cells.device, dtype=cells.dtype) * cell
    squared = (inside - offset[:, None]).square()  # (2 reach + 1, cell), along one axis
    distance = (squared[:, None, :, None] + squared[None, :, None, :]).sqrt()
    kernel = torch.exp(-2 * (distance / sigma - 0.5).clamp_min(0).square()).flatten(2)
    rows, columns = padded.shape[1] - 2 * reach, padded.shape[2] - 2 * reach
    masks = _SmoothMaximum.apply(padded, kernel, temperature).view(
        cell, cell, len(cells), rows, columns
    )
    masks = masks.permute(2, 3, 0, 4, 1).reshape(len(cells), rows * cell, columns * cell)
    start = before * cell - sigma
    return masks[:, start : start + size[0] + 2 * sigma, start : start + size[1] + 2 * sigma].clamp(
        0, 1
    )


class _SmoothMaximum(torch.autograd.Function):
    """sum_i v_i softmax_i(T v_i) for v_i = kernel_i * parameter_i, one neighbour i at a time.

    Autograd would keep all neighbours of all pixels (some 100 MB a mask of 224 x 224) and take ten
    times as long. ``padded`` is (J, rows + 2 reach, columns + 2 reach) and ``kernel`` (2 reach + 1,
    2 reach + 1, P), for the P pixels of a cell; the result is (P, J * rows * columns).
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, kernel: Tensor, temperature: float) -> Tensor:
        total = norm = padded.new_zeros(())
        for k, seen in _neighbours(padded, kernel):
            v = torch.outer(k, seen.flatten())
            e = (temperature * v).exp_()  # at most exp(T)
            total, norm = total + v.mul_(e), norm + e
        result = total / norm
        ctx.save_for_backward(padded, kernel, result, norm)
        ctx.temperature = temperature
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        padded, kernel, result, norm = ctx.saved_tensors
        t = ctx.temperature
        slope = gradients[0] / norm
        constant = slope * (1 - t * result)  # d result / d v_i = e_i (1 + T (v_i - result)) / norm
        gradient = torch.zeros_like(padded)
        for (k, seen), (_, place) in zip(
            _neighbours(padded, kernel), _neighbours(gradient, kernel), strict=True
        ):
            v = torch.outer(k, seen.flatten())
            e = (t * v).exp_()
            place += (k @ torch.addcmul(constant, v, slope, value=t).mul_(e)).view(place.shape)
        return gradient, None, None


def _neighbours(padded: Tensor, kernel: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each neighbour: the kernel at the pixels of a cell, (P,), and the parameters that all
    cells see there (a view).
    """
    rows, columns = padded.shape[1] - len(kernel) + 1, padded.shape[2] - len(kernel) + 1
    for y in range(len(kernel)):
        for x in range(len(kernel)):
            yield kernel[y, x], padded[:, y : y + rows, x : x + columns]


def area_excess(masks: Tensor, areas: Tensor) -> Tensor:
    """How far masks (J, h, w) are from being binary with areas (J,): mean squared difference of the
    sorted values (eq. 6).
    """
    # Stable, because equal values are common (every parameter starts at 1) and their order decides
    # who is to become 0.
    ordered = masks.flatten(1).sort(dim=1, stable=True).values
    rank = torch.arange(ordered.shape[1], device=masks.device)
    wanted = rank >= ((1 - areas.double()) * ordered.shape[1]).round()[:, None]
    return (ordered - wanted.to(masks.dtype)).square().mean(dim=1)


def blur_pyramid(images: Tensor) -> Tensor:
    """Images (B, C, H, W) from the strongest blur to none, (B, LEVELS, C, H, W); beyond the edges
    there are zeros.
    """
    strengths = [STRONGEST_BLUR * (1 - level / (LEVELS - 1)) for level in range(LEVELS)]
    return torch.stack(
        [gaussian_blur(images, sigma, border="constant") for sigma in strengths], dim=1
    )


def perturb(levels: Tensor, masks: Tensor) -> Tensor:
    """Each pixel from the level that its mask value names, linearly between two levels.

    Args:
        levels: (J, L, C, H, W), from most to not perturbed.
        masks: (J, H, W) in [0, 1].

    Returns:
        (J, C, H, W); the image itself where the mask is 1.
    """
    height = masks * (levels.shape[1] - 1)
    below = height.detach().long().clamp(max=levels.shape[1] - 2)
    index = below[:, None, None].expand(-1, 1, *levels.shape[2:])
    low, high = levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0]
    return torch.lerp(low, high, (height - below)[:, None].to(low.dtype))

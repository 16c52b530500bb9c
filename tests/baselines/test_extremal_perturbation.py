"""Extremal perturbation: its parts against loops over cells and pixels, the whole against a plain
one-mask optimisation.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from counterfactual_toys import curved, looking_at, pictures
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.extremal_perturbation import (
    ExtremalPerturbation,
    area_excess,
    blur_pyramid,
    perturb,
    smooth_masks,
)


def mask_by_loops(cells: Tensor, size: tuple[int, int], cell: int, sigma: int) -> Tensor:
    """Definition of the smooth max-convolution, pixel by pixel and cell by cell."""
    reach, margin = 1 + math.ceil(sigma / cell), sigma
    rows = []
    for y in range(-margin, size[0] + margin):
        row = []
        for x in range(-margin, size[1] + margin):
            values = []
            for i in range(y // cell - reach, y // cell + reach + 1):
                for j in range(x // cell - reach, x // cell + reach + 1):
                    known = 0 <= i < cells.shape[0] and 0 <= j < cells.shape[1]
                    distance = math.hypot(
                        y - (i * cell + (cell - 1) / 2), x - (j * cell + (cell - 1) / 2)
                    )
                    weight = math.exp(-2 * max(0.0, distance / sigma - 0.5) ** 2)
                    values.append(weight * cells[i, j] if known else 0 * cells[0, 0])
            v = torch.stack(values)
            row.append((v * (20 * v).softmax(0)).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def blur_by_matrix(side: int, sigma: float) -> Tensor:
    """Gaussian weights along one axis, truncated at 4 sigma and normalised before zeros come in at
    the border.
    """
    if sigma == 0:
        return torch.eye(side)
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(side)[None] - torch.arange(side)[:, None]
    weights = torch.exp(-offsets.double().square() / (2 * sigma**2)) * (offsets.abs() <= reach)
    return (
        weights
        / torch.exp(-torch.arange(-reach, reach + 1).double().square() / (2 * sigma**2)).sum()
    ).float()


def test_masks_are_the_max_convolution() -> None:
    cells = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    found = smooth_masks(cells, (11, 9), cell=3, sigma=4)
    assert found.shape == (2, 19, 17)
    for i in range(2):
        assert torch.allclose(found[i], mask_by_loops(cells[i], (11, 9), 3, 4), atol=1e-6)


def test_masks_have_the_gradient_of_finite_differences() -> None:
    cells = torch.rand(
        2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: smooth_masks(c, (4, 3), cell=2, sigma=2), cells)


def test_area_is_measured_on_the_sorted_mask() -> None:
    mask = torch.tensor([[0.9, 0.1, 0.4], [0.0, 1.0, 0.2]])
    expected = (
        (torch.tensor([0.0, 0.1, 0.2, 0.4, 0.9, 1.0]) - torch.tensor([0.0, 0, 0, 0, 1, 1]))
        .square()
        .mean()
    )
    assert torch.allclose(area_excess(mask[None], torch.tensor([1 / 3])), expected)
    assert area_excess((mask > 0.5).float()[None], torch.tensor([1 / 3])) == 0


def test_a_mask_value_names_a_blur() -> None:
    images = pictures(2, 24)
    levels = blur_pyramid(images)
    sigmas = [20 * (1 - level / 7) for level in range(8)]
    for level, sigma in enumerate(sigmas):
        matrix = blur_by_matrix(24, sigma)
        assert torch.allclose(levels[:, level], matrix @ images @ matrix.T, atol=1e-5)
    third = perturb(levels, torch.full((2, 24, 24), 3 / 7))
    assert torch.allclose(third, levels[:, 3], atol=1e-5)
    between = perturb(levels, torch.full((2, 24, 24), 5.25 / 7))
    assert torch.allclose(between, 0.75 * levels[:, 5] + 0.25 * levels[:, 6], atol=1e-5)
    assert torch.equal(perturb(levels, torch.ones(2, 24, 24)), images)


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_it_is_the_plain_ascent_of_each_mask(perturbation: str) -> None:
    """Dual contrastive reward, two areas, mirrored at even steps, momentum with dampening: written
    out for one mask.
    """
    side, steps, sigma, cell = 12, 5, 3, 3
    classifier, images, targets = curved(side), pictures(2, side), torch.tensor([1, 3])
    settings = {
        "areas": [0.2, 0.5],
        "variant": "dual",
        "reward": "contrastive",
        "perturbation": perturbation,
        "steps": steps,
        "cell": cell,
        "sigma": sigma,
        "learning_rate": 0.5,
        "area_weight": 2.0,
        "area_growth": 1.5,
    }
    heatmap = build_explainer("extremal_perturbation", classifier, settings).attribute(
        images, target=targets
    )

    def shown(image: Tensor, mask: Tensor) -> Tensor:
        if perturbation == "fade":
            return image * mask
        stack = torch.stack(
            [
                blur_by_matrix(side, 20 * (1 - n / 7))
                @ image
                @ blur_by_matrix(side, 20 * (1 - n / 7)).T
                for n in range(8)
            ]
        )
        weights = (1 - (7 * mask - torch.arange(8.0)[:, None, None]).abs()).clamp_min(
            0
        )  # hat functions
        return (stack * weights[:, None]).sum(0)

    def margin(image: Tensor, target: int) -> Tensor:
        logits = classifier(image[None])[0]
        return logits[target] - torch.cat([logits[:target], logits[target + 1 :]]).max()

    for i, target in enumerate(targets.tolist()):
        total = torch.zeros(side, side)
        for area in (0.2, 0.5):
            cells, velocity = torch.ones(4, 4), None
            for step in range(steps):
                cells.requires_grad_()
                padded = smooth_masks(cells[None], (side, side), cell=cell, sigma=sigma)[0]
                mask = padded[sigma:-sigma, sigma:-sigma]
                kept, deleted = shown(images[i], mask), shown(images[i], 1 - mask)
                if step % 2 == 0:
                    kept, deleted = kept.flip(-1), deleted.flip(-1)
                wanted = torch.ones(padded.numel())
                wanted[: round((1 - area) * padded.numel())] = 0
                excess = (padded.flatten().sort(stable=True).values - wanted).square().mean()
                objective = (
                    margin(kept, target) - margin(deleted, target) - 2.0 * 1.5**step * excess
                )
                (gradient,) = torch.autograd.grad(objective, cells)
                velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
                cells = (cells.detach() + 0.5 * velocity).clamp(0, 1)
            total += smooth_masks(cells[None], (side, side), cell=cell, sigma=sigma)[
                0, sigma:-sigma, sigma:-sigma
            ]
        assert torch.allclose(heatmap.values[i], total, atol=1e-3)


def test_it_finds_the_square_that_the_class_is_in() -> None:
    square = (slice(8, 24), slice(16, 32))
    classifier = looking_at(square, 48, strength=20.0)
    explainer = ExtremalPerturbation(
        classifier,
        areas=[0.12],
        perturbation="fade",
        steps=150,
        cell=4,
        sigma=6,
        learning_rate=0.05,
        area_growth=1.02,
        jitter=False,
    )
    values = explainer.attribute(pictures(1, 48).abs() + 0.5, target=1).values[0]
    inside = torch.zeros(48, 48, dtype=torch.bool)
    inside[square] = True
    assert values[inside].mean() > 0.8
    near = F.max_pool2d(inside[None].float(), 13, 1, 6)[0] > 0  # the mask falls off over sigma
    assert values[~near].mean() < 0.05


def test_smoothing_blurs_the_sum(small_classifier: FrozenClassifier, images: Tensor) -> None:
    settings = {"steps": 1, "areas": [0.1, 0.3]}
    plain = (
        build_explainer("extremal_perturbation", small_classifier, settings)
        .attribute(images[:1], target=1)
        .values
    )
    smooth = build_explainer(
        "extremal_perturbation", small_classifier, settings | {"smoothing": 0.09}
    )
    offsets = torch.arange(-24.0, 25.0)  # 4 sigma, rounded up
    kernel = torch.exp(-offsets.square() / (2 * (0.09 * 64) ** 2))
    kernel = (kernel[:, None] * kernel[None] / kernel.sum() ** 2)[None, None]
    expected = F.conv2d(F.pad(plain[:, None], [24] * 4, mode="replicate"), kernel)[:, 0]
    assert torch.allclose(smooth.attribute(images[:1], target=1).values, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"areas": [0.1, 1.0]}, "shares of the picture between 0 and 1"),
        ({"areas": []}, "shares of the picture"),
        ({"variant": "keep"}, "'preserve', 'delete', 'dual'"),
        ({"reward": "margin"}, "'logit', 'contrastive'"),
        ({"perturbation": "noise"}, "'blur', 'fade'"),
        ({"steps": 0}, "steps is 0"),
        ({"momentum": 1.0}, "below 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be a number above 0"),
        ({"area_weight": float("nan")}, "area_weight is nan"),
    ],
)
def test_settings_are_checked(
    small_classifier: FrozenClassifier, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_explainer("extremal_perturbation", small_classifier, settings)

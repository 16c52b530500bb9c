"""Baselines of the perturbation: what each kind is, and that an image's own generator decides."""

import pytest
import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.varsal.baselines import BaselineStrengths, draw_baselines, perturb


def pictures(count: int = 6, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)) + 1


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_baseline_does_not_depend_on_the_batch() -> None:
    images = pictures()
    together, own = generators(list(range(6))), generators(list(range(6)))
    for _ in range(3):  # a call moves each generator by the same amount, whatever was drawn
        batch = draw_baselines(images, together)
        alone = torch.cat([draw_baselines(images[i : i + 1], own[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(batch, alone, atol=1e-6, rtol=0)


def test_noise_has_its_deviation_and_knows_nothing_of_the_image() -> None:
    noise = draw_baselines(
        pictures(), generators(list(range(6))), ["noise"], BaselineStrengths(noise=0.7)
    )
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.7, rel=0.02)
    assert torch.equal(
        noise,
        draw_baselines(
            0 * pictures(), generators(list(range(6))), ["noise"], BaselineStrengths(noise=0.7)
        ),
    )


def test_mean_is_each_channel_s_own_mean_with_noise() -> None:
    images = pictures() * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    made = draw_baselines(
        images, generators(list(range(6))), ["mean"], BaselineStrengths(mean_noise=0.2)
    )
    rest = made - images.mean(dim=(2, 3), keepdim=True)
    assert float(rest.mean()) == pytest.approx(0, abs=0.005)
    assert float(rest.std()) == pytest.approx(0.2, rel=0.02)
    plain = draw_baselines(
        images, generators(list(range(6))), ["mean"], BaselineStrengths(mean_noise=0)
    )
    torch.testing.assert_close(plain, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


def test_blur_spreads_a_point_as_a_gaussian_of_its_sigma() -> None:
    point = torch.zeros(1, 3, 112, 112)
    point[:, :, 56, 56] = 1
    spread = draw_baselines(point, generators([0]), ["blur"], BaselineStrengths(blur=8))[
        0, 0
    ]  # 4 pixels at this size
    away = torch.arange(112.0) - 56
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    assert float((spread.sum(dim=0) * away**2).sum()) == pytest.approx(16, rel=0.02)


def test_kinds_are_drawn_equally_often() -> None:
    images = pictures(1, 8).expand(1, -1, -1, -1)
    generator = generators([3])
    strengths = BaselineStrengths(mean_noise=0)
    blurred = draw_baselines(images, generators([0]), ["blur"], strengths)
    plain = draw_baselines(images, generators([0]), ["mean"], strengths)
    drawn = [draw_baselines(images, generator, strengths=strengths) for _ in range(600)]
    blurs = sum(torch.equal(made, blurred) for made in drawn)
    means = sum(torch.equal(made, plain) for made in drawn)
    assert 160 < blurs < 240
    assert 160 < means < 240
    assert 160 < 600 - blurs - means < 240


def test_perturbed_image_is_the_image_where_the_mask_is_one() -> None:
    images, mask = pictures(2, 8), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    other = draw_baselines(images, generators([1, 2]))
    made = perturb(images, mask, other)
    torch.testing.assert_close(made, images * mask[:, None] + other * (1 - mask[:, None]))


def test_what_does_not_exist_is_refused() -> None:
    images = pictures(2, 8)
    with pytest.raises(InputError, match="did you mean 'blur'"):
        draw_baselines(images, generators([0, 1]), ["blurr"])
    with pytest.raises(InputError, match="empty"):
        draw_baselines(images, generators([0, 1]), [])
    with pytest.raises(InputError, match="1 generators"):
        draw_baselines(images, generators([0]))
    with pytest.raises(InputError, match="negative"):
        BaselineStrengths(blur=-1)

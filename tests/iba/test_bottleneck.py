"""The bottleneck's mathematics against torch.distributions, and at the ends of its range."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from lit_iba.classifier.layout import Layout
from lit_iba.iba.bottleneck import (
    _blur_by_shifts,
    blur,
    information_bits,
    information_nats,
    mask_from_logits,
    mix,
)
from lit_iba.iba.optimise import optimise_mask


@settings(max_examples=100, deadline=None)
@given(
    alpha=st.floats(-12, 12),
    feature=st.floats(-20, 20),
    mean=st.floats(-5, 5),
    std=st.floats(0.01, 10),
)
def test_the_information_is_the_divergence_of_the_two_gaussians(
    alpha: float, feature: float, mean: float, std: float
) -> None:
    drop = torch.sigmoid(torch.tensor([-alpha], dtype=torch.float64))
    keep = 1 - drop
    restricted = Normal(keep * feature + drop * mean, drop * std)  # P(Z|R), equation 2
    expected = kl_divergence(restricted, Normal(torch.tensor([mean], dtype=torch.float64), std))
    r = torch.tensor([(feature - mean) / std], dtype=torch.float64)
    assert torch.allclose(information_nats(r, keep, drop), expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(
        information_bits(r, keep, drop) * math.log(2), expected, rtol=1e-9, atol=1e-12
    )
    in_float32 = information_nats(r.float(), keep.float(), drop.float()).double()
    assert torch.allclose(in_float32, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [-1e9, -200.0, -50.0, 0.0, 17.0, 50.0, 200.0, 1e9])
def test_value_and_gradient_stay_finite_at_the_ends(alpha: float) -> None:
    logits = torch.full((1, 2, 6, 6), alpha, requires_grad=True)
    keep, drop = mask_from_logits(logits, 1.0, Layout("BCHW", 6, 6))
    nats = information_nats(torch.full((1, 2, 6, 6), 30.0), keep, drop)
    (gradient,) = torch.autograd.grad(nats.sum(), logits)
    assert torch.isfinite(nats).all()
    assert (nats >= 0).all()
    assert torch.isfinite(gradient).all()
    if alpha <= -50:
        assert nats.max() == 0


def test_an_alpha_beyond_the_digits_of_float32_still_comes_down() -> None:
    start = torch.full((1, 1, 6, 6), 16.5)

    def loss(alpha: torch.Tensor) -> torch.Tensor:
        keep, drop = mask_from_logits(alpha, 1.0, Layout("BCHW", 6, 6))
        return information_nats(torch.ones(1, 1, 6, 6), keep, drop).sum()

    found = optimise_mask(start, loss, lambda: None, steps=10, learning_rate=1.0)
    assert (found < 8).all()


def test_mixing_has_the_moments_of_equation_2() -> None:
    generator = torch.Generator().manual_seed(0)
    keep, mean, std, r = 0.7, 2.0, 3.0, torch.tensor(5.0)
    noise = torch.randn(200_000, generator=generator)
    z = mix(
        r, torch.tensor(keep), torch.tensor(1 - keep), torch.tensor(mean), torch.tensor(std), noise
    )
    assert z.mean().item() == pytest.approx(keep * 5 + (1 - keep) * mean, abs=0.01)
    assert z.std().item() == pytest.approx((1 - keep) * std, rel=0.01)


def test_mixing_with_many_copies_has_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    r, keep, mean, std = torch.rand(4, 2, 3, 4, 5, dtype=torch.float64, generator=generator).unbind(
        0
    )
    noise = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    keep = keep.to(memory_format=torch.channels_last).requires_grad_()
    assert torch.equal(
        mix(r, keep, 1 - keep, mean, std, noise)[1], mix(r, keep, 1 - keep, mean, std, noise[1])
    )
    assert torch.autograd.gradcheck(lambda keep: mix(r, keep, 1 - keep, mean, std, noise), keep)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_blur_is_the_dense_gaussian_convolution(sigma: float) -> None:
    maps = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = round(2 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    squared = offsets[:, None] ** 2 + offsets[None, :] ** 2
    kernel = torch.exp(-squared / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = F.pad(maps, [radius] * 4, mode="reflect")
    expected = F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    assert torch.allclose(blur(maps, sigma), expected, atol=1e-6)


def test_the_mask_and_its_complement_sum_to_one_and_tokens_without_position_are_not_blurred() -> (
    None
):
    layout = Layout("BTC", 4, 4, 1)
    alpha = torch.randn(2, 17, 3, generator=torch.Generator().manual_seed(0))
    keep, drop = mask_from_logits(alpha, 1.0, layout)
    assert torch.allclose(keep + drop, torch.ones_like(keep))
    assert torch.allclose(keep[:, 0], torch.sigmoid(alpha[:, 0]), atol=1e-6)
    grid = torch.sigmoid(alpha[:, 1:]).transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(layout.grid(keep), blur(grid, 1.0), atol=1e-6)
    assert torch.allclose(mask_from_logits(alpha, 0.0, layout)[0], torch.sigmoid(alpha), atol=1e-6)


@pytest.mark.parametrize("size", [(9, 7), (3, 5), (1, 4)])
@pytest.mark.parametrize("sigma", [0.2, 1.0, 1.6])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shifted_sums_blur_as_convolutions_do(
    size: tuple[int, int], sigma: float, memory_format: torch.memory_format
) -> None:
    """What a GPU runs in place of the CPU's convolutions, forwards and backwards."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).contiguous(
        memory_format=memory_format
    )
    weights = torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    found = []
    for function in (blur, _blur_by_shifts):
        x = maps.clone().requires_grad_()
        y = function(x, sigma)
        found.append((y, *torch.autograd.grad((y * weights).sum(), x)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
def test_mixing_is_equation_2_and_so_are_its_gradients(copies: bool, scalar: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 4)
    r, keep, mean, std, offset = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(5)
    )
    keep, std = keep.sigmoid().requires_grad_(), std.exp()
    std = std[:, :1, :1, :1] if scalar else std  # what broadcasts takes another way
    noise = torch.randn(((5,) if copies else ()) + shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(noise.shape, generator=generator, dtype=torch.float64)
    found = mix(r, keep, 1 - keep, mean, std, noise, offset)
    wanted = keep * r + (1 - keep) * (mean + std * noise) + offset
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((z * weights).sum(), keep)[0] for z in (found, wanted)]
    torch.testing.assert_close(*gradients)

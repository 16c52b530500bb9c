"""Proposition 3 against the divergence of the two Gaussians of remarks 1 and 2, by torch and by
numerical integration.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from lit_iba.iba.bottleneck import information_nats
from lit_iba.input_iba.bottleneck import input_information_bits, input_information_nats


def proposition_3(image: float, mean: float, std: float, keep: float, prior: float) -> float:
    """As printed in the paper."""
    g, lam = torch.tensor(prior, dtype=torch.float64), torch.tensor(keep, dtype=torch.float64)
    whole = 1 - g * lam
    return float(
        torch.log(whole / (1 - lam))
        + (1 - lam) ** 2 / (2 * whole**2)
        + (image - mean) ** 2 * (lam - g * lam) ** 2 / (2 * whole**2 * std**2)
        - 0.5
    )


def remarks(
    image: float, mean: float, std: float, keep: float, prior: float
) -> tuple[Normal, Normal]:
    """P(Z_I|I) and P(Z_I), remarks 2 and 1, in float64."""

    def mixed(mask: float) -> Normal:
        values = torch.tensor(
            [mask * image + (1 - mask) * mean, (1 - mask) * std], dtype=torch.float64
        )
        return Normal(values[0], values[1])

    return mixed(keep), mixed(prior * keep)


def ours(
    image: float, mean: float, std: float, keep: float, prior: float, dtype=torch.float64
) -> float:
    def tensor(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64).to(dtype)

    r = tensor((image - mean) / std)
    return float(input_information_nats(r, tensor(keep), tensor(1 - keep), tensor(1 - prior)))


mask = st.floats(0, 1 - 1e-6)


@settings(max_examples=200, deadline=None)
@given(
    image=st.floats(-20, 20), mean=st.floats(-5, 5), std=st.floats(0.01, 10), keep=mask, prior=mask
)
def test_it_is_the_divergence_of_remarks_1_and_2(
    image: float, mean: float, std: float, keep: float, prior: float
) -> None:
    case = (image, mean, std, keep, prior)
    expected = float(kl_divergence(*remarks(*case)))
    assert proposition_3(*case) == pytest.approx(expected, rel=1e-7, abs=1e-8)
    assert ours(*case) == pytest.approx(expected, rel=1e-7, abs=1e-8)
    assert ours(*case, dtype=torch.float32) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert ours(*case) >= 0


def test_it_is_the_integral_of_the_log_ratio() -> None:
    case = (1.7, 0.3, 0.8, 0.6, 0.45)
    given_input, prior = remarks(*case)
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    p, ratio = given_input.log_prob(z).exp(), given_input.log_prob(z) - prior.log_prob(z)
    assert ours(*case) == pytest.approx(float(torch.trapezoid(p * ratio, z)), rel=1e-8)
    r, half = (
        torch.full((3,), 1.75, dtype=torch.float64),
        torch.full((3,), 0.5, dtype=torch.float64),
    )
    assert torch.allclose(
        input_information_bits(r, half, half, half)
        * torch.log(torch.tensor(2.0, dtype=torch.float64)),
        input_information_nats(r, half, half, half),
    )


def test_without_a_prior_it_is_the_plain_bottleneck_and_a_closed_mask_carries_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    r, keep, prior_drop = torch.randn(3, 1000, generator=generator, dtype=torch.float64)
    keep, prior_drop = keep.sigmoid(), prior_drop.sigmoid()
    ones, zeros = torch.ones_like(keep), torch.zeros_like(keep)
    assert torch.allclose(
        input_information_nats(r, keep, 1 - keep, ones), information_nats(r, keep, 1 - keep)
    )
    assert (input_information_nats(r, zeros, ones, prior_drop) == 0).all()
    assert (input_information_nats(r, keep, 1 - keep, zeros) == 0).all()
    more = input_information_nats(r, keep, 1 - keep, prior_drop)
    assert (
        more <= information_nats(r, keep, 1 - keep) + 1e-12
    ).all()  # a prior only takes information away


@pytest.mark.parametrize(
    ("alpha", "prior"), list(itertools.product([-1e9, -30.0, 0.0, 16.0, 40.0, 1e9], repeat=2))
)
def test_values_and_gradients_are_finite_at_every_corner(alpha: float, prior: float) -> None:
    alphas, priors = (torch.full((5,), value, requires_grad=True) for value in (alpha, prior))
    r = torch.tensor([-30.0, -1.0, 0.0, 1.0, 30.0])
    nats = input_information_nats(
        r, torch.sigmoid(alphas), torch.sigmoid(-alphas), torch.sigmoid(-priors)
    )
    gradients = torch.autograd.grad(nats.sum(), (alphas, priors))
    assert torch.isfinite(nats).all()
    assert (nats >= 0).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if alpha < -100 or prior > 100:
        assert (nats == 0).all()  # nothing passes, or nothing beyond the prior does

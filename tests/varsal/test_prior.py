"""The priors' divergence against dense Gaussians and finite differences."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from lit_iba.errors import InputError
from lit_iba.varsal.prior import SoftTVPrior, StandardNormalPrior


def dense_covariance(height: int, width: int, alpha: float) -> torch.Tensor:
    """Equation 4, pixel by pixel: 1, alpha beside and above, alpha squared at the corners."""
    pixels = [(i, j) for i in range(height) for j in range(width)]
    far = [[(abs(a - c), abs(b - d)) for c, d in pixels] for a, b in pixels]
    value = {(0, 0): 1.0, (0, 1): alpha, (1, 0): alpha, (1, 1): alpha**2}
    return torch.tensor(
        [[value.get(between, 0.0) for between in row] for row in far], dtype=torch.float64
    )


def posterior(height: int, width: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    mean, log_variance = torch.randn(
        2, count, height, width, generator=generator, dtype=torch.float64
    )
    return mean, log_variance


@pytest.mark.parametrize("alpha", [0.4, -0.3, 0.49, 0.0])
@pytest.mark.parametrize("size", [(4, 7), (1, 5)])
def test_divergence_is_that_of_the_dense_gaussians(size: tuple[int, int], alpha: float) -> None:
    mean, log_variance = posterior(*size)
    prior = MultivariateNormal(
        torch.zeros(size[0] * size[1]).double(), dense_covariance(*size, alpha)
    )
    q = MultivariateNormal(mean.flatten(1), torch.diag_embed(log_variance.exp().flatten(1)))
    torch.testing.assert_close(
        SoftTVPrior(*size, alpha).kl(mean, log_variance), kl_divergence(q, prior)
    )
    if alpha == 0:
        torch.testing.assert_close(
            StandardNormalPrior(*size).kl(mean, log_variance), kl_divergence(q, prior)
        )


def test_gradient_is_that_of_finite_differences() -> None:
    mean, log_variance = (x.requires_grad_() for x in posterior(3, 5, 2))
    for prior in (SoftTVPrior(3, 5), StandardNormalPrior(3, 5)):
        assert torch.autograd.gradcheck(prior.kl, (mean, log_variance))


def test_divergence_from_itself_is_zero() -> None:
    nothing = torch.zeros(2, 30, 20)
    assert StandardNormalPrior(30, 20).kl(nothing, nothing).tolist() == [0, 0]
    # The nearest independent Gaussian is not the prior, but has each pixel's conditional variance:
    # the least divergence.
    conditional = 1 / torch.linalg.inv(dense_covariance(6, 5, 0.4)).diagonal().view(1, 6, 5)
    at = conditional.log().requires_grad_()
    divergence = SoftTVPrior(6, 5).kl(torch.zeros(1, 6, 5).double(), at)
    divergence.sum().backward()
    torch.testing.assert_close(at.grad, torch.zeros_like(at))
    assert (divergence > 0).all()


@pytest.mark.parametrize("alpha", [0.4, 0.49])
def test_float32_is_enough_for_224_pixels(alpha: float) -> None:
    mean, log_variance = (x.requires_grad_() for x in posterior(224, 224, 1))
    prior = SoftTVPrior(224, 224, alpha)
    exact = prior.kl(mean, log_variance)
    exact.sum().backward()
    low = [x.detach().float().requires_grad_() for x in (mean, log_variance)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = prior.kl(*low)
    value.sum().backward()
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    for x, y in zip(low, (mean, log_variance), strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-3, atol=1e-4)


def test_samples_have_the_prior_s_covariance() -> None:
    size = (3, 4)
    samples = (
        SoftTVPrior(*size).sample(200_000, torch.Generator().manual_seed(0)).flatten(1).double()
    )
    torch.testing.assert_close(samples.T.cov(), dense_covariance(*size, 0.4), atol=0.015, rtol=0)
    assert StandardNormalPrior(*size).sample(5, torch.Generator().manual_seed(0)).shape == (5, 3, 4)


@pytest.mark.parametrize("alpha", [0.5, -0.5, 0.7, float("nan")])
def test_a_covariance_that_is_not_positive_definite_at_every_size_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match="positive definite"):
        SoftTVPrior(8, 8, alpha)


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"maps \(B, 8, 6\)"):
        SoftTVPrior(8, 6).kl(torch.zeros(1, 6, 8), torch.zeros(1, 6, 8))
    with pytest.raises(InputError, match="height"):
        StandardNormalPrior(0, 6)

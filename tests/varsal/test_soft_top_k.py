"""The soft top-k mask against a Sinkhorn solver, finite differences, and what must hold for any
scores.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.varsal.soft_top_k import soft_top_k, standardize


def sinkhorn_mask(scores: Tensor, k: Tensor, temperature: float, iterations: int = 2000) -> Tensor:
    """The mass that entropic transport brings from each score to the anchor 1, times n: plain
    Sinkhorn scaling.
    """
    n = scores.shape[1]
    anchors = torch.tensor([0.0, 1.0], dtype=scores.dtype)
    kernel = torch.exp(-((scores[:, :, None] - anchors) ** 2) / temperature)  # (B, n, 2)
    target = torch.stack([(n - k) / n, k / n], dim=1)
    columns = torch.ones(len(scores), 2, dtype=scores.dtype)
    for _ in range(iterations):
        rows = (1 / n) / (kernel * columns[:, None]).sum(dim=2)
        columns = target / (kernel * rows[:, :, None]).sum(dim=1)
    return (rows[:, :, None] * kernel * columns[:, None])[:, :, 1] * n


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_mask_is_the_transport_plan_of_sinkhorn(temperature: float) -> None:
    scores = standardize(
        torch.randn(4, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    k = torch.tensor([0.7, 30.0, 150.5, 299.2], dtype=torch.float64)
    mask = soft_top_k(scores, k, temperature=temperature)
    torch.testing.assert_close(mask, sinkhorn_mask(scores, k, temperature), rtol=0, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    scores = torch.randn(
        3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    k = torch.tensor([0.3, 3.0, 6.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, k, temperature=0.4), scores)
    assert torch.autograd.gradgradcheck(lambda s: soft_top_k(s, k, temperature=0.4), scores)
    assert torch.autograd.gradcheck(standardize, scores)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, float, float]:
    """Scores (1, n) with ties and far clusters, k, and a temperature."""
    number = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, -50.0])
    scores = draw(st.lists(number, min_size=2, max_size=40))
    n = len(scores)
    k = draw(st.floats(1e-4, n - 1e-4) | st.integers(1, n - 1).map(float))
    return (
        torch.tensor([scores], dtype=torch.float64),
        k,
        draw(st.sampled_from([1e-3, 0.05, 1.0, 20.0])),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(problems(), st.randoms(use_true_random=False))
def test_any_mask_sums_to_k_and_keeps_the_order(
    problem: tuple[Tensor, float, float], random: object
) -> None:
    scores, k, temperature = problem
    mask = soft_top_k(scores, torch.tensor([k], dtype=torch.float64), temperature=temperature)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert float(mask.sum()) == pytest.approx(k, rel=1e-9, abs=1e-9)
    order = scores[
        0
    ].argsort()  # to the last digit: torch's sigmoid rounds differently at the end of a row
    assert (mask[0, order].diff() >= -1e-14 * mask[0, order][1:]).all()
    for value in scores[0].unique():
        tied = mask[0, scores[0] == value]
        torch.testing.assert_close(tied, tied[:1].expand_as(tied), rtol=1e-14, atol=0)
    shuffle = list(range(scores.shape[1]))
    random.shuffle(shuffle)  # type: ignore[attr-defined]
    shuffled = soft_top_k(
        scores[:, shuffle], torch.tensor([k], dtype=torch.float64), temperature=temperature
    )
    torch.testing.assert_close(shuffled, mask[:, shuffle], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1e-6, 0.5, 5017.6, 25088.0, 50175.0, 50175.99])
@pytest.mark.parametrize("temperature", [1e-6, 0.02, 50.0])
def test_a_picture_of_224_pixels_in_float32(k: float, temperature: float) -> None:
    scores = standardize(
        torch.randn(2, 50_176, generator=torch.Generator().manual_seed(2))
    ).requires_grad_()
    mask = soft_top_k(scores, torch.full((2,), k, dtype=torch.float64), temperature=temperature)
    assert mask.dtype == torch.float32
    assert mask.double().sum(dim=1).tolist() == pytest.approx([k, k], rel=2e-6)
    mask.square().sum().backward()
    assert torch.isfinite(scores.grad).all()
    # Adding a number to all scores changes nothing, so that the gradient sums to zero.
    single = (
        2 / temperature * (2 * mask * mask * (1 - mask)).detach().double().sum(dim=1)
    )  # before the mean is taken off
    assert (scores.grad.double().sum(dim=1).abs() <= 1e-6 * single).all()


def test_a_hard_mask_keeps_exactly_the_largest_scores_and_has_a_finite_gradient() -> None:
    scores = torch.tensor([[5.0, -3.0, 1e4, 0.0, 2.0]], requires_grad=True)
    mask = soft_top_k(scores, torch.tensor([2.0]), temperature=1e-4)
    assert mask.tolist() == [[1, 0, 1, 0, 0]]
    mask.sum().backward()
    assert scores.grad.tolist() == [[0] * 5]


def test_equal_scores_share_k() -> None:
    scores = torch.full((1, 50_176), 0.1, requires_grad=True)
    level = standardize(scores)
    assert (level == 0).all()
    mask = soft_top_k(level, torch.tensor([12_544.0]), temperature=0.01)
    torch.testing.assert_close(mask, torch.full_like(mask, 0.25))
    mask.square().sum().backward()
    assert (scores.grad == 0).all()


def test_rows_do_not_depend_on_each_other() -> None:
    scores = torch.stack(
        [torch.randn(500, generator=torch.Generator().manual_seed(3)), torch.logspace(-8, 3, 500)]
    )
    k = torch.tensor([30.0, 470.5])
    together = soft_top_k(scores, k, temperature=0.01)
    alone = torch.cat(
        [soft_top_k(s[None], one[None], temperature=0.01) for s, one in zip(scores, k, strict=True)]
    )
    assert torch.equal(together, alone)


def test_autocast_to_bfloat16_computes_in_float32() -> None:
    scores = torch.randn(2, 4096, generator=torch.Generator().manual_seed(4))
    k = torch.tensor([409.6, 3686.4])
    low = scores.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask = soft_top_k(standardize(low), k, temperature=0.05)
        mask.square().mean().backward()
    rounded = low.detach().float().requires_grad_()
    plain = soft_top_k(standardize(rounded), k, temperature=0.05)
    plain.square().mean().backward()
    assert mask.dtype == torch.float32
    assert torch.equal(mask, plain)
    torch.testing.assert_close(low.grad, rounded.grad.bfloat16())


def test_standardized_scores_have_mean_zero_and_deviation_one() -> None:
    maps = (
        1e-5 * torch.randn(3, 40, 30, generator=torch.Generator().manual_seed(5))
        + torch.tensor([0, 1e-3, -1e-4])[:, None, None]
    )
    scores = standardize(maps)
    assert scores.shape == maps.shape
    torch.testing.assert_close(scores.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.std(dim=(1, 2), correction=0), torch.ones(3))


@pytest.mark.parametrize(
    ("k", "temperature", "part"),
    [
        ([0.0, 1.0], 1.0, "k is"),
        ([1.0, 5.0], 1.0, "k is"),
        ([float("nan"), 1.0], 1.0, "k is"),
        ([1.0], 1.0, "k of shape"),
        ([1.0, 2.0], 0.0, "temperature"),
        ([1.0, 2.0], float("inf"), "temperature"),
    ],
)
def test_bad_arguments_are_refused(k: list[float], temperature: float, part: str) -> None:
    with pytest.raises(InputError, match=part):
        soft_top_k(torch.randn(2, 5), torch.tensor(k), temperature=temperature)

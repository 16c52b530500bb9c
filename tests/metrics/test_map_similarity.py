"""How alike two maps are, as the sanity check measures it, against the formulas and SciPy."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import slow_ssim

from lit_iba import InputError
from lit_iba.metrics.sanity_check import rank_correlation, rescaled, ssim, told_apart


@pytest.mark.parametrize("definition", ["torchmetrics", "skimage"])
@pytest.mark.parametrize(("window", "data_range"), [(3, 1), (5, 1), (5, 2)])
def test_ssim_is_its_formula_window_by_window(definition, window, data_range):
    generator = torch.Generator().manual_seed(window)
    a = torch.rand(3, 11, 14, generator=generator)
    b = (a + 0.4 * torch.randn(3, 11, 14, generator=generator)).clamp(0, 1)
    b[2] = 0  # a heatmap without anything
    expected = [
        slow_ssim(x, y, window, definition == "skimage", data_range)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert ssim(a, b, window, definition, data_range).tolist() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-20, 20))
def test_rescaling_ignores_scale_and_shift_and_ends_at_the_percentiles(seed, scale, shift):
    maps = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(seed)).double()
    found = rescaled(maps)
    for row, values in zip(maps.numpy(), found.numpy(), strict=True):
        low, high = np.percentile(row, [1, 99])
        np.testing.assert_allclose(
            values, (np.clip(row, low, high) - low) / (high - low), atol=1e-9
        )
    torch.testing.assert_close(rescaled(maps * scale + shift), found)
    assert not rescaled(torch.full((1, 4, 4), shift)).any()


def test_rank_correlation_is_scipys_also_with_ties():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(4, 8, 8, generator=generator),
        torch.randint(0, 3, (4, 8, 8), generator=generator).float(),
    )
    expected = [
        scipy.stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)
    ]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected, abs=1e-5)
    assert rank_correlation(a[:1], torch.ones(1, 8, 8)).tolist() == [0.0]


@pytest.mark.parametrize("definition", ["torchmetrics", "skimage"])
def test_a_window_larger_than_the_maps_is_refused(definition):
    """Inside the picture there was no such window: the similarity was NaN, and every image was left
    out as if its map were at fault.
    """
    maps = torch.rand(2, 9, 16)
    assert ssim(maps, maps, 9, definition).allclose(torch.ones(2).double())
    with pytest.raises(InputError, match="window is 11, larger than maps of 9x16"):
        ssim(maps, maps, 11, definition)


def test_maps_of_which_nothing_is_left_are_told_from_constant_ones():
    """Fewer pixels than one in a hundred lie outside the percentiles, and are clamped away."""
    sparse, elsewhere, dense = (torch.zeros(1, 30, 25) for _ in range(3))
    sparse[0, 3, 3:5], elsewhere[0, 20, 20:22], dense[0, :10] = 1, 1, 1
    assert float(ssim(rescaled(sparse), rescaled(elsewhere))) == 1
    maps = torch.cat([sparse, elsewhere, dense, torch.ones(1, 30, 25)])
    assert told_apart(maps, rescaled(maps)).tolist() == [False, False, True, True]

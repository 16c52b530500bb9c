"""Bounding box score against counting, pixel by pixel, over every order in which tied pixels could
come.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import curved, sample

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.bounding_box import share_inside


def share_by_hand(values, inside):
    """Mean over all orders that respect the values."""
    n, shares = sum(inside), []
    for order in itertools.permutations(range(len(values))):
        ranked = [values[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            shares.append(sum(inside[i] for i in order[:n]) / n)
    return sum(shares) / len(shares)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-2, 2), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
)
def test_share_equals_the_mean_over_all_orders_of_tied_pixels(values, inside):
    found = share_inside(
        torch.tensor(values).float().view(1, 2, 3), torch.tensor(inside).view(1, 2, 3)
    )
    assert float(found) == pytest.approx(share_by_hand(values, inside))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 99))
def test_score_lies_between_0_and_1_and_only_the_order_counts(seed, pixels):
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randn(1, 10, 10, generator=generator)
    mask = (torch.randperm(100, generator=generator) < pixels).view(1, 10, 10)
    share = float(share_inside(heatmap, mask))
    assert 0 <= share <= 1
    assert float(share_inside(heatmap.exp(), mask)) == pytest.approx(share)
    assert (
        float(share_inside(mask.float() + torch.rand(1, 10, 10, generator=generator) / 2, mask))
        == 1
    )
    # The best of the box and the best of the rest exchange places when the map changes sign, n
    # being half the pixels.
    assert float(share_inside(torch.zeros(1, 10, 10), mask)) == pytest.approx(pixels / 100)


def test_large_and_missing_boxes_are_left_out_and_counted():
    images, targets, heatmaps = sample(5)
    mask = torch.zeros(5, 12, 12, dtype=torch.bool)
    mask[0, :2, :6] = True  # 12 of 144 pixels
    mask[1, :4] = True  # a third: 48 of 144, more than 0.33
    mask[2] = True
    mask[4, 5, 5:8] = True  # box of 3 pixels; image 3 has none
    heatmaps[0] = mask[0].float()
    heatmaps[4] = 0
    heatmaps[4, 5, 5] = heatmaps[4, 0, 0] = heatmaps[4, 0, 1] = 1
    metric = build_metric("bounding_box")
    metric.update(curved(), images, targets, heatmaps, object_mask=mask)
    rows = metric.rows()
    assert rows["score"].isnan().tolist() == [False, True, True, True, False]
    result = metric.compute()
    assert result.score == pytest.approx((1 + 1 / 3) / 2)
    assert result.standard_error == pytest.approx(1 / 3)  # half the difference of two
    assert result.n == 2
    assert result.extra == pytest.approx({"left_out": 3, "chance": (12 / 144 + 3 / 144) / 2})


def test_data_without_boxes_is_refused():
    with pytest.raises(InputError, match="bounding_box needs object_mask"):
        build_metric("bounding_box").update(curved(), *sample(2))


def test_score_over_no_image_is_nan_and_says_so():
    metric = build_metric("bounding_box")
    metric.update(curved(), *sample(2), object_mask=torch.zeros(2, 12, 12, dtype=torch.bool))
    result = metric.compute()
    assert (result.score != result.score, result.n, result.extra["left_out"]) == (True, 0, 2)

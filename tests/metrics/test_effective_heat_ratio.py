"""Effective heat ratio against counting pixel by pixel, numpy's quantiles, and maps whose ranks are
the same.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import curved, sample

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.bounding_box import share_inside


def by_hand(heatmap, inside, points=11, base=0.0, top=1.0, scale="max"):
    """(area under the ratio, area under the scale-free form), in plain Python."""
    values = [float(v) for v in heatmap.double().flatten()]
    inside = inside.flatten().tolist()
    if scale == "minmax":
        values = [v - min(values) for v in values]
    values = [max(v, 0.0) for v in values]
    if scale != "none" and max(values) > 0:
        values = [v / max(values) for v in values]
    values = [v if v >= base else 0.0 for v in values]
    ratios, shares = [], []
    for q in range(points):
        counted = [v for v in values if v >= base]
        if not counted:
            return 0.0, 0.0
        threshold = min(np.quantile(counted, q / (points - 1)), top * max(values))
        chosen = [
            (v, i)
            for v, i in zip(values, inside, strict=True)
            if v >= threshold - 1e-12 and v >= base
        ]
        heat = sum(v for v, i in chosen if i)
        ratios.append(heat / len(chosen))
        shares.append(heat / sum(v for v, _ in chosen) if sum(v for v, _ in chosen) > 0 else 0.0)
    area = lambda y: sum((a + b) / 2 for a, b in itertools.pairwise(y)) / (points - 1)  # noqa: E731
    return area(ratios), area(shares)


def scores(heatmaps, mask, settings=None):
    metric = build_metric("ehr", settings)
    images, targets, _ = sample(len(heatmaps), size=tuple(heatmaps.shape[1:]))
    metric.update(curved(), images, targets, heatmaps, object_mask=mask)
    return metric.scores(metric.rows()), metric.compute()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"preset": "reference"},
        {"scale": "minmax", "points": 5},
        {"scale": "none", "base_threshold": 0.3},
    ],
)
@pytest.mark.parametrize("rounded", [False, True])
def test_score_equals_counting_pixel_by_pixel(given, rounded):
    _, _, heatmaps = sample(5)
    heatmaps = heatmaps.round() if rounded else heatmaps  # with ties
    mask = torch.zeros(5, 12, 12, dtype=torch.bool)
    mask[:, 2:8, 3:9] = True
    found, result = scores(heatmaps, mask, given)
    plain = {"base": 0.1, "top": 0.99} if "preset" in given else dict(given)
    if "base_threshold" in plain:
        plain["base"] = plain.pop("base_threshold")
    wanted = [by_hand(h, m, **plain) for h, m in zip(heatmaps, mask, strict=True)]
    assert found["score"].tolist() == pytest.approx([w[0] for w in wanted], rel=1e-5)
    assert found["scale_free"].tolist() == pytest.approx([w[1] for w in wanted], rel=1e-5)
    assert result.score == pytest.approx(sum(w[0] for w in wanted) / 5, rel=1e-5)
    assert result.extra["scale_free"] == pytest.approx(sum(w[1] for w in wanted) / 5, rel=1e-5)


def box():
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[0, :3, :10] = True  # 30 of 100 pixels
    return mask


def test_maps_of_equal_ranks_differ_by_the_attribution_outside_the_box():
    """The synthetic cases of the paper: the bounding-box score cannot tell them apart, EHR can."""
    mask, rank = box(), torch.linspace(0, 1, 100).flip(0).view(1, 10, 10)
    concentrated, diffuse = rank.where(mask, rank * 0.01), rank * 0.1 + 0.9
    for heatmap in (concentrated, diffuse):
        assert torch.equal(
            heatmap.flatten().argsort(descending=True), rank.flatten().argsort(descending=True)
        )
        assert float(share_inside(heatmap, mask)) == 1
    (little, _), (much, _) = (scores(h, mask) for h in (concentrated, diffuse))
    assert float(little["scale_free"]) > float(much["scale_free"]) + 0.2
    # A map that is 1 in the box and 0 elsewhere: at q < 0.7 all pixels are at or above the
    # threshold 0, of which 30 are heated.
    ideal, _ = scores(mask.float(), mask)
    assert float(ideal["scale_free"]) == pytest.approx(1)
    assert float(ideal["score"]) == pytest.approx(by_hand(mask[0].float(), mask[0])[0])
    # With quantiles of the marked pixels alone, as in the authors' code, it is perfect, and
    # attribution outside costs.
    assert float(scores(mask.float(), mask, {"preset": "reference"})[0]["score"]) == pytest.approx(
        1
    )
    everywhere = torch.ones(1, 10, 10)
    assert float(scores(everywhere, mask, {"preset": "reference"})[0]["score"]) == pytest.approx(
        0.3
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from([{}, {"preset": "reference"}, {"scale": "minmax"}]),
    st.floats(0.01, 100),
)
def test_scores_lie_between_0_and_1_and_do_not_depend_on_a_factor(seed, given, factor):
    heatmap = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(seed))
    found, _ = scores(heatmap, box(), given)
    scaled, _ = scores(heatmap * factor, box(), given)
    for quantity in ("score", "scale_free"):
        assert 0 <= float(found[quantity]) <= 1
        assert float(scaled[quantity]) == pytest.approx(
            float(found[quantity]), abs=0.02
        )  # a tie may break by rounding
    assert float(found["score"]) <= float(found["scale_free"]) + 1e-9  # values are at most 1


def test_maps_without_positive_attribution_count_as_0_and_are_not_changed():
    heatmaps = -torch.rand(1, 10, 10)
    kept = heatmaps.clone()
    for chosen in ({}, {"preset": "reference"}, {"scale": "none", "base_threshold": 0.1}):
        found, _ = scores(heatmaps, box(), chosen)
        assert (float(found["score"]), float(found["scale_free"])) == (0, 0)
    assert torch.equal(heatmaps, kept)


def test_large_and_missing_boxes_are_left_out_and_counted():
    mask = torch.zeros(3, 12, 12, dtype=torch.bool)
    mask[0, :2, :6] = True
    mask[1, :4] = True  # a third of the picture
    found, result = scores(sample(3)[2], mask)
    assert found["score"].isnan().tolist() == [False, True, True]
    assert (result.n, result.extra["left_out"]) == (1, 2)
    assert result.score == pytest.approx(float(found["score"][0]))


@pytest.mark.parametrize(
    "bad",
    [{"points": 1}, {"scale": "sum"}, {"base_threshold": 1.0}, {"top": 0}, {"max_box_fraction": 0}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        build_metric("ehr", bad)

"""Degradation against a loop that removes one tile at a time from one image, as section 4.6 says
it.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import Additive, curved, frozen, sample

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.degradation import both_orders, curve_steps


def recognised(classifier, count, size=(12, 12)):
    """A sample explained by what the classifier says, so that removing all costs something."""
    images, _, heatmaps = sample(count, size=size)
    with torch.no_grad():
        return images, classifier(images).argmax(dim=1), heatmaps


def probability(classifier, image, target):
    with torch.no_grad():
        return float(classifier(image[None]).softmax(dim=1)[0, target])


def tiles_of(height, width, tile):
    """Pixel ranges of the tiles in reading order; those at the edge may be smaller."""
    return [
        (slice(y, min(y + tile, height)), slice(x, min(x + tile, width)))
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def curve_by_hand(classifier, image, target, heatmap, tile, most_relevant_first, fill):
    tiles = tiles_of(*heatmap.shape, tile)
    value = [float(heatmap[rows, columns].double().sum()) for rows, columns in tiles]
    sign = -1 if most_relevant_first else 1
    degraded, probabilities = image.clone(), [probability(classifier, image, target)]
    for number in sorted(range(len(tiles)), key=lambda t: (sign * value[t], t)):
        rows, columns = tiles[number]
        degraded[:, rows, columns] = fill[:, None, None]
        probabilities.append(probability(classifier, degraded, target))
    return probabilities


def integral_by_hand(curve):
    steps = len(curve) - 1
    return sum((curve[i] + curve[i + 1]) / 2 / steps for i in range(steps))


@pytest.mark.parametrize(
    ("size", "tile", "baseline"),
    [
        ((12, 12), 4, "zero"),
        ((12, 12), 4, "mean_of_image"),
        ((11, 14), 4, "zero"),
        ((3, 3), 1, "zero"),
    ],
)
def test_degradation_equals_the_loop_over_tiles(size, tile, baseline):
    classifier = curved()
    images, targets, heatmaps = recognised(classifier, 5, size=size)
    curves = {True: [], False: []}
    for image, target, heatmap in zip(images, targets, heatmaps, strict=True):
        fill = image.mean(dim=(1, 2)) if baseline == "mean_of_image" else torch.zeros(3)
        for first in (True, False):
            curves[first].append(
                curve_by_hand(classifier, image, int(target), heatmap, tile, first, fill)
            )
    t1 = sum(c[0] for c in curves[True]) / 5
    b = sum(c[-1] for c in curves[True]) / 5
    scaled = {k: [[(p - b) / (t1 - b) for p in c] for c in cs] for k, cs in curves.items()}
    per_image = [
        integral_by_hand(lerf) - integral_by_hand(morf)
        for morf, lerf in zip(scaled[True], scaled[False], strict=True)
    ]
    mean = sum(per_image) / 5
    error = math.sqrt(sum((v - mean) ** 2 for v in per_image) / 4 / 5)

    metric = build_metric(
        "degradation", {"tile": tile, "baseline": baseline, "forward_batch_size": 7}
    )
    metric.update(classifier, images, targets, heatmaps)
    result = metric.compute()

    assert result.score == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert result.standard_error == pytest.approx(error, rel=1e-4, abs=1e-6)
    assert result.n == 5
    assert result.extra["original_probability"] == pytest.approx(t1, rel=1e-5)
    assert result.extra["degraded_probability"] == pytest.approx(b, rel=1e-5)
    for name, first in (("morf", True), ("lerf", False)):
        wanted = [sum(c[k] for c in scaled[first]) / 5 for k in range(len(scaled[first][0]))]
        assert result.curves[name]["y"] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert result.curves[name]["x"] == pytest.approx(
            [k / (len(wanted) - 1) for k in range(len(wanted))]
        )
    scores = metric.scores(metric.rows())
    assert scores["score"].tolist() == pytest.approx(per_image, rel=1e-4, abs=1e-6)
    for name, place in (("probability", 0), ("degraded_probability", -1)):
        assert scores[name].tolist() == pytest.approx([c[place] for c in curves[True]], rel=1e-4)


def test_t1_may_be_the_average_highest_probability():
    classifier = curved()
    images, targets, heatmaps = recognised(classifier, 12)
    targets[-1] = 2  # not what the classifier says
    found = {}
    for t1 in ("target", "top1"):
        metric = build_metric("degradation", {"tile": 4, "t1": t1})
        metric.update(classifier, images, targets, heatmaps)
        found[t1] = metric.compute()
    with torch.no_grad():
        highest = float(classifier(images).softmax(dim=1).amax(dim=1).mean())
    top1, target = found["top1"], found["target"]
    start, b = target.extra["original_probability"], target.extra["degraded_probability"]
    assert start < highest - 0.005
    assert top1.extra["t1"] == pytest.approx(highest)
    assert top1.extra["original_probability"] == target.extra["t1"] == pytest.approx(start)
    assert top1.score == pytest.approx(target.score * (start - b) / (highest - b), rel=1e-4)
    assert top1.curves["morf"]["y"][0] == pytest.approx((start - b) / (highest - b), rel=1e-4)
    assert target.curves["morf"]["y"][0] == pytest.approx(1)


def test_fewer_points_are_a_subset_of_the_full_curve():
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    full, some = (
        build_metric("degradation", {"tile": 3}),
        build_metric("degradation", {"tile": 3, "points": 5}),
    )
    for metric in (full, some):
        metric.update(classifier, images, targets, heatmaps)
    kept = curve_steps(16, 5)
    assert kept.tolist() == [0, 4, 8, 12, 16]
    for direction in ("morf", "lerf"):
        torch.testing.assert_close(some.rows()[direction], full.rows()[direction][:, kept])


def test_true_order_beats_every_other_heatmap_and_its_negative_scores_the_opposite():
    generator = torch.Generator().manual_seed(3)
    weight = torch.rand(12, 12, generator=generator) * 0.2
    classifier = frozen(Additive(weight))
    images = torch.rand(4, 3, 12, 12, generator=generator)
    truth = images.mean(dim=1) * weight
    targets = torch.ones(4, dtype=torch.int64)

    def score(heatmaps):
        metric = build_metric("degradation", {"tile": 4})
        metric.update(classifier, images, targets, heatmaps)
        return metric.compute().score

    best = score(truth)
    assert best > 0
    assert score(-truth) == pytest.approx(-best, rel=1e-5)
    for seed in range(5):
        assert score(torch.randn(4, 12, 12, generator=torch.Generator().manual_seed(seed))) < best


def test_heatmap_without_order_scores_exactly_zero():
    classifier = curved()
    images, targets, _ = recognised(classifier, 3)
    metric = build_metric("degradation", {"tile": 4})
    metric.update(classifier, images, targets, torch.full((3, 12, 12), 0.1))
    assert metric.compute().score == 0


def test_score_is_nan_where_degrading_changes_nothing():
    metric = build_metric("degradation", {"tile": 6})
    images, _, heatmaps = sample(3)
    metric.update(
        frozen(Additive(torch.zeros(12, 12))), images, torch.ones(3, dtype=torch.int64), heatmaps
    )
    assert math.isnan(metric.compute().score)


def summary(first, last, t1="target"):
    """The result of curves of three points, whose LeRF curve is above the MoRF curve."""
    first, last = torch.tensor(first), torch.tensor(last)
    middle = (first + last) / 2
    metric = build_metric("degradation", {"tile": 6, "points": 3, "t1": t1})
    rows = {
        "morf": torch.stack([first, middle - 0.1, last], dim=1),
        "lerf": torch.stack([first, middle + 0.1, last], dim=1),
        "tiles": torch.full((len(first),), 4),
        "top1": first + 0.3,
    }
    return metric.summarize(rows), metric.scores(rows)["score"]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ([0.3, 0.2, 0.4], [0.5, 0.6, 0.5]),  # the picture says less than nothing does
        ([0.5, 0.2, 0.4], [0.1, 0.59, 0.4]),  # t1 - b is 0.003 with a standard error of 0.23
        ([0.3, 0.3, 0.3], [0.299999, 0.299999, 0.299999]),  # float32's rounding
        ([0.2], [0.5]),
    ],
)
def test_no_score_where_originals_say_no_more_than_degraded_pictures(first, last):
    result, scores = summary(first, last)
    assert math.isnan(result.score)
    assert scores.isnan().all()
    assert result.n == len(first)
    assert result.extra["t1"] == pytest.approx(sum(first) / len(first))
    assert result.extra["degraded_probability"] == pytest.approx(sum(last) / len(last))


def test_a_clear_gap_keeps_its_sign_and_size_and_t1_decides_which_gap():
    result, _ = summary([0.5, 0.6, 0.55], [0.1, 0.2, 0.1])
    assert result.score == pytest.approx(0.1 / (0.55 - 0.4 / 3), rel=1e-4)
    assert summary([0.5], [0.4])[0].score == pytest.approx(1, rel=1e-4)  # of one image
    assert math.isnan(summary([0.3, 0.3, 0.3], [0.4, 0.4, 0.4])[0].score)
    assert summary([0.3, 0.3, 0.3], [0.4, 0.4, 0.4], t1="top1")[0].score > 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_ranks_are_orders_with_ties_in_reading_order(sums):
    ranks = both_orders(torch.tensor(sums, dtype=torch.float64))
    for row, (morf, lerf) in zip(sums, ranks.tolist(), strict=True):
        assert [morf.index(k) for k in range(6)] == sorted(range(6), key=lambda t: (-row[t], t))
        assert [lerf.index(k) for k in range(6)] == sorted(range(6), key=lambda t: (row[t], t))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-3, 3), min_size=40, max_size=40), st.text(max_size=5))
def test_random_ties_shuffle_equal_tiles_alone_and_both_ways_alike(sums, key):
    values = torch.tensor([sums, sums], dtype=torch.float64)
    both = both_orders(values, [key, key + "x"]).tolist()
    for morf, lerf in both:
        assert sorted(morf) == sorted(lerf) == list(range(40))
        assert [-sums[morf.index(k)] for k in range(40)] == sorted(-v for v in sums)
        assert [sums[lerf.index(k)] for k in range(40)] == sorted(sums)
        for value in set(sums):
            equal = [t for t in range(40) if sums[t] == value]
            assert sorted(equal, key=morf.__getitem__) == sorted(equal, key=lerf.__getitem__)
    assert both[0] != both[1] or len(set(sums)) > 3  # 40 numbers of at most 7 kinds
    assert both_orders(values[:1], [key]).tolist() == both[:1]


def test_random_ties_leave_maps_without_any_alone_and_belong_to_the_sample():
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    rectified = (heatmaps - heatmaps.median()).clamp_min(0)

    def rows(maps, keys=("a", "b", "c"), which=slice(None), **given):
        metric = build_metric("degradation", {"tile": 1} | given)
        kept = list(keys)[which]
        found = metric.judge(classifier, images[which], targets[which], maps[which], keys=kept)
        return torch.stack([found["morf"], found["lerf"]])

    shuffled = rows(rectified, ties="random")
    assert torch.equal(rows(heatmaps, ties="random"), rows(heatmaps))
    assert not torch.allclose(shuffled, rows(rectified))
    assert not torch.allclose(shuffled, rows(rectified, ties="random", seed=1))
    assert not torch.allclose(shuffled, rows(rectified, keys="xyz", ties="random"))
    alone = rows(rectified, which=slice(1, 2), ties="random")
    torch.testing.assert_close(shuffled[:, 1:2], alone, rtol=1e-4, atol=1e-6)
    constant = rows(torch.ones_like(heatmaps), ties="random")
    assert torch.equal(constant[0], constant[1])  # no order scores nothing
    named = build_metric("degradation", {"ties": "random", "seed": 3})
    assert "equal ones in random order (seed 3 and the sample's key)" in named.definition


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 800), st.none() | st.integers(2, 200))
def test_curve_has_both_ends_and_as_many_points_as_there_can_be(tiles, points):
    steps = curve_steps(tiles, points).tolist()
    assert steps[0] == 0
    assert steps[-1] == tiles
    assert steps == sorted(set(steps))
    assert len(steps) == min(points or tiles + 1, tiles + 1)


@pytest.mark.parametrize(
    "bad", [{"tile": 0}, {"tile": 2.5}, {"points": 1}, {"baseline": "blur"}, {"tiles": 8}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        build_metric("degradation", bad)


def test_pictures_of_two_sizes_are_refused_instead_of_averaged():
    metric = build_metric("degradation", {"tile": 4, "points": 3})
    for size in ((12, 12), (8, 8)):
        metric.update(curved(), *sample(2, size=size))
    with pytest.raises(InputError, match="one size"):
        metric.compute()

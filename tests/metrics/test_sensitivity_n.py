"""Sensitivity-n against a loop over images, set sizes and sets, with one forward pass each."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import Additive, curved, frozen, sample

from lit_iba.errors import InputError
from lit_iba.explainer import build_explainer
from lit_iba.metrics import build_metric
from lit_iba.metrics.sensitivity_n import correlation, set_sizes


def logit(classifier, image, target):
    with torch.no_grad():
        return float(classifier(image[None])[0, target])


@pytest.mark.parametrize(("tile", "size"), [(4, (12, 12)), (5, (12, 11)), (1, (6, 6))])
def test_correlations_equal_the_loop_over_sets(tile, size):
    classifier = curved()
    images, targets, heatmaps = sample(4, size=size)
    metric = build_metric(
        "sensitivity_n", {"tile": tile, "points": 4, "masks": 10, "forward_batch_size": 9}
    )
    metric.update(classifier, images, targets, heatmaps)
    columns = math.ceil(size[1] / tile)
    tiles = math.ceil(size[0] / tile) * columns
    sets = metric.sets(tiles)
    wanted = []
    for image, target, heatmap in zip(images, targets.tolist(), heatmaps, strict=True):
        wanted.append([])
        for sets_of_n in sets:
            attribution, drop = [], []
            for chosen in sets_of_n:
                masked, total = image.clone(), 0.0
                for t in chosen.nonzero().flatten().tolist():
                    y, x = t // columns * tile, t % columns * tile
                    masked[:, y : y + tile, x : x + tile] = 0
                    total += float(heatmap[y : y + tile, x : x + tile].double().sum())
                attribution.append(total)
                drop.append(logit(classifier, image, target) - logit(classifier, masked, target))
            wanted[-1].append(statistics.correlation(attribution, drop))
    torch.testing.assert_close(
        metric.rows()["correlation"], torch.tensor(wanted), rtol=1e-3, atol=1e-3
    )
    per_image = [statistics.mean(row) for row in wanted]
    result = metric.compute()
    assert result.score == pytest.approx(statistics.mean(per_image), abs=1e-3)
    assert result.standard_error == pytest.approx(statistics.stdev(per_image) / 2, abs=1e-3)
    assert result.curves["correlation"]["x"] == [float(n) for n in set_sizes(tiles, 4, 0.01, 0.8)]
    assert result.curves["correlation"]["y"] == pytest.approx(
        [statistics.mean(c) for c in zip(*wanted, strict=True)], abs=1e-3
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_attribution_that_is_the_drop_correlates_perfectly(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 12, generator=generator)
    images = torch.randn(3, 3, 12, 12, generator=generator)
    classifier, targets = frozen(Additive(weight)), torch.ones(3, dtype=torch.int64)
    truth = images.mean(dim=1) * weight
    metric = build_metric("sensitivity_n", {"tile": 3, "points": 3, "masks": 8})
    metric.update(classifier, images, targets, torch.cat([truth[:2], -truth[2:]]))
    found = metric.rows()["correlation"]
    torch.testing.assert_close(
        found, torch.tensor([[1.0], [1.0], [-1.0]]).expand_as(found), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("fill", "perfect"), [("zero", True), ("mean", False)])
def test_occlusion_with_zero_foretells_the_removal_of_one_tile_exactly(fill, perfect):
    classifier, (images, targets, _) = curved(), sample(3)
    occlusion = build_explainer("occlusion", classifier, {"tile": 4, "fill": fill})
    heatmaps = occlusion.attribute(images, targets).values
    metric = build_metric("sensitivity_n", {"tile": 4, "points": 4, "masks": 20})
    metric.update(classifier, images, targets, heatmaps)
    result = metric.compute().curves["correlation"]
    assert result["x"][0] == 1  # the paper's axis begins at one tile
    assert (result["y"][0] == pytest.approx(1, abs=1e-4)) == perfect
    assert result["y"][0] > result["y"][-1]


def test_constant_attribution_and_constant_drops_count_as_zero():
    images, targets, heatmaps = sample(2)
    metric = build_metric("sensitivity_n", {"tile": 2, "points": 5, "masks": 20})
    metric.update(curved(), images, targets, torch.full((2, 12, 12), 0.1))
    metric.update(
        frozen(Additive(torch.zeros(12, 12))), images, torch.ones(2, dtype=torch.int64), heatmaps
    )
    assert (metric.rows()["correlation"] == 0).all()


def test_drops_are_shared_by_explainers_and_by_images():
    classifier, (images, targets, heatmaps) = curved(), sample(4)
    alone = build_metric("sensitivity_n", {"tile": 3, "points": 3, "masks": 6})
    shared = build_metric("sensitivity_n", {"tile": 3, "points": 3, "masks": 6})
    drops = shared.shared_scores(classifier, images, targets)
    assert drops.shape == (4, len(alone.sets(16)), 6)
    alone.update(classifier, images, targets, heatmaps)
    calls = []
    handle = classifier.register_forward_hook(lambda *_: calls.append(1))
    shared.update(classifier, images, targets, heatmaps, shared=drops)
    handle.remove()
    assert not calls
    assert torch.equal(alone.rows()["correlation"], shared.rows()["correlation"])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60_000), st.integers(1, 30))
def test_set_sizes_span_the_asked_range(tiles, points):
    sizes = set_sizes(tiles, points, 0.01, 0.8).tolist()
    assert sizes[0] == max(1, round(0.01 * tiles)) or math.isclose(
        sizes[0], 0.01 * tiles, abs_tol=0.51
    )
    assert sizes == sorted(set(sizes))
    assert points == 1 or math.isclose(sizes[-1], max(1, 0.8 * tiles), abs_tol=0.51)


def test_sets_have_the_asked_size_and_follow_the_seed():
    first, again = (
        build_metric("sensitivity_n", {"tile": 1, "masks": 5}).sets(100) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert (first.sum(dim=2) == set_sizes(100, 16, 0.01, 0.8)[:, None]).all()
    assert not torch.equal(
        first, build_metric("sensitivity_n", {"tile": 1, "masks": 5, "seed": 1}).sets(100)
    )


@pytest.mark.parametrize("bad", [{"masks": 1}, {"points": 0}, {"max_fraction": 1.5}, {"tile": -1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        build_metric("sensitivity_n", bad)


def test_a_correlation_is_numpys_and_none_where_nothing_varies_beyond_rounding():
    a = torch.tensor([[-1.0, 0.0, 1.0], [2.0, 5.0, 1.0], [0.0, 1e-3, 0.0]], dtype=torch.float64)
    b = torch.tensor([[-2.0, 0.0, 2.0], [1.0, -3.0, 4.0], [3.0, 1.0, 2.0]], dtype=torch.float64)
    small = torch.tensor(1e-2, dtype=torch.float64)
    wanted = [np.corrcoef(x, y)[0, 1] for x, y in zip(a[:2], b[:2], strict=True)]
    assert correlation(a, b, small, small).tolist() == pytest.approx([*wanted, 0])
    assert correlation(b, a, small, small).tolist() == pytest.approx([*wanted, 0])


@pytest.mark.parametrize(("tile", "words"), [(1, "pixels"), (4, "tiles of 4x4 pixels")])
def test_the_axis_says_what_is_removed(tile, words):
    metric = build_metric("sensitivity_n", {"tile": tile, "points": 2, "masks": 3})
    metric.update(curved(), *sample(1))
    assert metric.compute().x_label == f"{words} removed"

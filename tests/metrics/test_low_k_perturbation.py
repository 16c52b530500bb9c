"""Low-k perturbation against a loop over images and percentages, with the divergence summed by
hand.
"""

import math

import pytest
import torch
from metric_toys import curved, sample

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.low_k_perturbation import low_k_divergences


def probabilities(classifier, image):
    with torch.no_grad():
        return classifier(image[None]).double().softmax(dim=1)[0].tolist()


@pytest.mark.parametrize("given", [{}, {"percentages": [0, 33.3, 100], "forward_batch_size": 5}])
def test_score_equals_the_loop_over_percentages(given):
    classifier, (images, targets, heatmaps) = curved(), sample(4, size=(12, 9))
    heatmaps = (2 * heatmaps).round()  # with ties
    percentages = given.get("percentages", [10 * k for k in range(1, 10)])
    wanted = []
    for image, heatmap in zip(images, heatmaps, strict=True):
        order = sorted(range(108), key=lambda p, h=heatmap: (float(h.flatten()[p]), p))
        p, divergences = probabilities(classifier, image), []
        for k in percentages:
            perturbed = image.clone()
            for pixel in order[: round(k / 100 * 108)]:
                perturbed[:, pixel // 9, pixel % 9] = 0
            q = probabilities(classifier, perturbed)
            divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        wanted.append(divergences)
    metric = build_metric("low_k_perturbation", given)
    metric.update(classifier, images, targets, heatmaps)
    torch.testing.assert_close(metric.rows()["kl"], torch.tensor(wanted), rtol=1e-3, atol=1e-6)
    means = [sum(row) / len(row) for row in wanted]
    result = metric.compute()
    assert result.score == pytest.approx(sum(means) / 4, rel=1e-3)
    assert metric.scores(metric.rows())["score"].tolist() == pytest.approx(means, rel=1e-3)
    assert result.curves["kl"]["x"] == percentages
    half = [k <= 50 for k in percentages]
    halves = [sum(v for v, low in zip(row, half, strict=True) if low) / sum(half) for row in wanted]
    assert result.extra["up_to_50_percent"] == pytest.approx(sum(halves) / 4, rel=1e-3)
    assert metric.scores(metric.rows())["up_to_50_percent"].tolist() == pytest.approx(
        halves, rel=1e-3
    )


def test_the_mean_to_a_half_is_left_out_where_it_is_the_score_or_nothing():
    classifier, (images, targets, heatmaps) = curved(), sample(1)
    for percentages in ([10, 50], [60, 90]):
        metric = build_metric("low_k_perturbation", {"percentages": percentages})
        metric.update(classifier, images, targets, heatmaps)
        assert metric.compute().extra == {}


def test_random_ties_make_a_constant_map_a_random_one_and_belong_to_the_sample():
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    constant = torch.ones_like(heatmaps)

    def rows(maps, keys=("a", "b", "c"), which=slice(None), **settings):
        metric = build_metric("low_k_perturbation", settings)
        kept = list(keys)[which]
        return metric.judge(classifier, images[which], targets[which], maps[which], keys=kept)["kl"]

    ramp = torch.arange(constant[0].numel(), dtype=torch.float32).view_as(constant[0])
    ramp = ramp.expand_as(constant)
    assert torch.equal(rows(constant), rows(ramp))
    shuffled = rows(constant, ties="random")
    assert (shuffled != rows(constant)).any(dim=1).all()
    for i in range(3):  # the order is the key's, whatever the batch
        alone = rows(constant, which=slice(i, i + 1), ties="random")
        torch.testing.assert_close(shuffled[i : i + 1], alone, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(shuffled, rows(constant, ties="random", seed=1))
    assert not torch.allclose(shuffled, rows(constant, keys="xyz", ties="random"))
    assert torch.equal(rows(heatmaps, ties="random"), rows(heatmaps))  # nothing is equal


def test_several_maps_of_an_image_share_its_order_of_equal_pixels():
    classifier, (images, _, heatmaps) = curved(), sample(2)
    maps = torch.stack([torch.ones_like(heatmaps), 2 * torch.ones_like(heatmaps), heatmaps], dim=1)
    with torch.no_grad():
        reference = classifier(images).double().log_softmax(dim=1)
    found = low_k_divergences(classifier, images, reference, maps, (20, 50), 4, ["a", "b"])
    assert torch.equal(found[:, 0], found[:, 1])
    for i, key in enumerate("ab"):
        alone = low_k_divergences(
            classifier, images[[i]], reference[[i]], maps[[i], :1], (20, 50), 4, [key]
        )
        torch.testing.assert_close(found[[i], :1], alone, rtol=1e-3, atol=1e-6)


def test_targets_do_not_matter_and_shared_predictions_change_nothing():
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    first, other = build_metric("low_k_perturbation"), build_metric("low_k_perturbation")
    first.update(classifier, images, targets, heatmaps)
    other.update(
        classifier,
        images,
        (targets + 1) % 4,
        heatmaps,
        shared=other.shared_scores(classifier, images, targets),
    )
    assert torch.equal(first.rows()["kl"], other.rows()["kl"])
    assert (first.rows()["kl"] > 0).all()


@pytest.mark.parametrize("bad", [[], [20, 10], [10, 10], [-1], [101]])
def test_bad_percentages_are_refused(bad):
    with pytest.raises(InputError, match="percentages"):
        build_metric("low_k_perturbation", {"percentages": bad})

"""Decision flip against removing step by step, with classifiers that change their mind and change
it back.
"""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import curved, frozen, others_of, sample
from torch import nn

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.decision_flip import first_flips
from lit_iba.perturbation import removal_ranks


class Wavering(nn.Module):
    """Class 1 or 0 by the sign of a sine of what is left of the picture: it flips to and fro as
    pixels go.
    """

    def __init__(self, weight, speed=3.0):
        super().__init__()
        self.register_buffer("weight", weight)
        self.speed = speed

    def forward(self, images):
        wave = torch.sin(self.speed * (images.mean(dim=1) * self.weight).sum(dim=(1, 2)))
        return torch.stack([torch.zeros_like(wave), wave, wave - 1, wave - 2], dim=1)


def decision(classifier, image):
    with torch.no_grad():
        return int(classifier(image[None]).argmax())


def sequence(classifier, image, heatmap, most_first, step, fill=None):
    """Decision and remaining norm before the first step and after each, one pixel and one picture
    at a time; a step is a number of pixels, or the list of how many are gone at each look.
    """
    width, sign = heatmap.shape[1], -1 if most_first else 1
    order = sorted(range(heatmap.numel()), key=lambda p: (sign * float(heatmap.flatten()[p]), p))
    now, left = image.clone(), image.clone()
    fill = torch.zeros_like(image) if fill is None else fill
    looks = range(step, len(order) + step, step) if isinstance(step, int) else step
    found, done = [(decision(classifier, now), float(left.double().norm()))], 0
    for look in looks:
        for p in order[done:look]:
            now[:, p // width, p % width] = fill[:, p // width, p % width]
            left[:, p // width, p % width] = 0
        found.append((decision(classifier, now), float(left.double().norm())))
        done = look
    return found


def e_by_hand(classifier, image, heatmap, most_first, step, fill=None):
    steps = sequence(classifier, image, heatmap, most_first, step, fill)
    for now, norm in steps[1:]:
        if now != steps[0][0]:
            return 1 - norm / steps[0][1]
    return 1.0


def wavering(seed=0, size=(12, 12), speed=3.0):
    weight = torch.randn(*size, generator=torch.Generator().manual_seed(seed))
    return frozen(Wavering(weight, speed), side=size[0])


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30), st.floats(0.05, 5))
def test_first_flip_is_that_of_the_sequential_loop_also_where_it_flips_back(
    seed, batch, step, speed
):
    classifier, (images, _, heatmaps) = wavering(seed, speed=speed), sample(3, seed)
    maps = torch.stack([heatmaps, -heatmaps.roll(1, 0)], dim=1).flatten(2)
    ranks = torch.stack([removal_ranks(maps[:, m], False) for m in range(2)], dim=1)
    steps = torch.arange(step, 144 + step, step).clamp_max(144)
    classes = torch.tensor([decision(classifier, image) for image in images])
    found = first_flips(classifier, images, classes, classes, ranks, steps, batch)
    for i in range(3):
        for m in range(2):
            decisions = [
                d for d, _ in sequence(classifier, images[i], maps[i, m].view(12, 12), False, step)
            ]
            flips = [k for k, d in enumerate(decisions[1:]) if d != decisions[0]]
            assert int(found[i, m]) == (flips[0] if flips else len(steps))


def test_the_wavering_classifier_flips_back_where_a_coarse_grid_looks():
    """So that the tests above would catch a search that takes no flip at a later step for no flip
    before it.
    """
    classifier, (images, _, heatmaps) = wavering(), sample(8)
    missed = 0
    for image, heatmap in zip(images, heatmaps, strict=True):
        decisions = [d for d, _ in sequence(classifier, image, heatmap, False, 1)]
        changed = [d != decisions[0] for d in decisions]
        first = changed.index(True)
        missed += not changed[
            -(-first // 8) * 8
        ]  # the next of every eighth step says that nothing has happened
    assert missed >= 2


@pytest.mark.parametrize("network", [wavering, curved])
@pytest.mark.parametrize("step", [1, 11])
def test_every_e_and_delta_e_equals_the_loop(network, step):
    classifier, (images, targets, heatmaps) = network(), sample(4)
    heatmaps = (2 * heatmaps).round()  # with ties
    others = others_of(heatmaps, 2)
    metric = build_metric(
        "decision_flip", {"pixels_per_step": step, "noise_maps": 2, "forward_batch_size": 5}
    )
    metric.update(classifier, images, targets, heatmaps, others=others)
    scores = metric.scores(metric.rows())
    wanted = {name: [] for name in ("e_minus", "e_plus", "delta_e_minus", "delta_e_plus")}
    for image, heatmap, noise in zip(images, heatmaps, others, strict=True):
        for sign, most_first in (("minus", False), ("plus", True)):
            e = e_by_hand(classifier, image, heatmap, most_first, step)
            wanted[f"e_{sign}"].append(e)
            wanted[f"delta_e_{sign}"].append(
                e
                - statistics.mean(
                    e_by_hand(classifier, image, xi, most_first, step) for xi in noise
                )
            )
    wanted["e_delta"] = [a - b for a, b in zip(wanted["e_minus"], wanted["e_plus"], strict=True)]
    wanted["delta_e_delta"] = [
        a - b for a, b in zip(wanted["delta_e_minus"], wanted["delta_e_plus"], strict=True)
    ]
    for name, values in wanted.items():
        assert scores[name].tolist() == pytest.approx(values, abs=1e-6), name
    result = metric.compute()
    assert result.score == pytest.approx(statistics.mean(wanted["delta_e_minus"]), abs=1e-6)
    assert result.standard_error == pytest.approx(
        statistics.stdev(wanted["delta_e_minus"]) / 2, abs=1e-6
    )
    assert result.extra["e_delta_median"] == pytest.approx(
        statistics.median(wanted["e_delta"]), abs=1e-6
    )


def kernel(sigma):
    """One axis of a Gaussian that is cut off at 4 sigma."""
    reach = math.ceil(4 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return reach, weights / weights.sum()


def blurred_by_hand(image, sigma):
    reach, weights = kernel(sigma)
    padded = nn.functional.pad(image[None], (reach,) * 4, mode="reflect")[0]
    rows = sum(w * padded[:, k : k + image.shape[1]] for k, w in enumerate(weights))
    return sum(w * rows[:, :, k : k + image.shape[2]] for k, w in enumerate(weights))


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_another_fill_and_the_geometric_grid_equal_the_loop(fill):
    classifier, (images, targets, heatmaps) = wavering(speed=6.0), sample(6)
    others, looks = others_of(heatmaps, 1), [3, 8, 21, 55, 144]  # 3 * 48 ** (k / 4), rounded
    settings = {"grid": "geometric", "looks": 5, "first_look": 3, "fill": fill, "noise_maps": 1}
    metric = build_metric("decision_flip", settings)
    metric.update(classifier, images, targets, heatmaps, others=others)
    scores = metric.scores(metric.rows())
    for i, image in enumerate(images):
        mean = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
        seen = mean if fill == "mean" else blurred_by_hand(image, 10 / 224 * 12)
        for name, most_first in (("e_minus", False), ("e_plus", True)):
            by_hand = e_by_hand(classifier, image, heatmaps[i], most_first, looks, seen)
            assert float(scores[name][i]) == pytest.approx(by_hand, abs=1e-6), name
    zero = build_metric("decision_flip", settings | {"fill": "zero"})
    zero.update(classifier, images, targets, heatmaps, others=others)
    assert not zero.scores(zero.rows())["e_minus"].equal(scores["e_minus"])


def test_the_quartiles_are_those_of_the_images():
    classifier, (images, targets, heatmaps) = wavering(), sample(7)
    metric = build_metric("decision_flip", {"pixels_per_step": 2, "noise_maps": 1})
    metric.update(classifier, images, targets, heatmaps, others=others_of(heatmaps, 1))
    values = metric.scores(metric.rows())["e_minus"].tolist()
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    extra = metric.compute().extra
    found = [extra[f"e_minus_{part}"] for part in ("lower_quartile", "median", "upper_quartile")]
    assert found == pytest.approx([low, middle, high], abs=1e-6)
    assert low < middle < high


def test_as_few_images_go_through_the_classifier_as_the_sequential_loop_needs():
    classifier, (images, targets, heatmaps) = wavering(), sample(8)
    metric = build_metric(
        "decision_flip", {"pixels_per_step": 4, "noise_maps": 1, "forward_batch_size": 4}
    )
    seen = []
    handle = classifier.register_forward_hook(
        lambda _module, inputs, _output: seen.append(len(inputs[0]))
    )
    metric.update(classifier, images, targets, heatmaps, others=others_of(heatmaps, 1))
    handle.remove()
    needed = 8  # the originals
    for image, pair in zip(
        images, torch.stack([heatmaps, heatmaps.roll(-1, 0)], dim=1), strict=True
    ):
        for heatmap in pair:
            for most_first in (False, True):
                decisions = [d for d, _ in sequence(classifier, image, heatmap, most_first, 4)]
                needed += next(
                    (k for k in range(1, len(decisions)) if decisions[k] != decisions[0]), 36
                )
    # The last searches of a batch share a forward pass of which they may need a part only.
    assert needed <= sum(seen) <= needed + 3 * 4


def test_a_decision_that_never_flips_has_e_1_and_is_counted():
    images, targets, heatmaps = sample(2)
    metric = build_metric("decision_flip", {"pixels_per_step": 50, "noise_maps": 1})
    metric.update(
        frozen(Wavering(torch.zeros(12, 12))),
        images,
        targets,
        heatmaps,
        others=others_of(heatmaps, 1),
    )
    result = metric.compute()
    assert result.extra["e_minus"] == result.extra["e_plus"] == 1
    assert result.score == 0
    assert result.extra["unflipped"] == 2 * 4


def test_a_picture_of_the_mean_colour_has_no_score():
    images, targets, heatmaps = sample(3)
    images[1] = 0
    metric = build_metric("decision_flip", {"pixels_per_step": 50, "noise_maps": 1})
    metric.update(curved(), images, targets, heatmaps, others=others_of(heatmaps, 1))
    assert metric.scores(metric.rows())["score"].isnan().tolist() == [False, True, False]
    assert metric.compute().n == 2
    assert not math.isnan(metric.compute().score)


def test_heatmaps_of_other_images_are_asked_for():
    images, targets, heatmaps = sample(2)
    metric = build_metric("decision_flip", {"noise_maps": 3})
    for others in (None, others_of(heatmaps, 2), torch.full((2, 3, 12, 12), torch.nan)):
        with pytest.raises(InputError, match="compares with heatmaps of other images"):
            metric.update(curved(), images, targets, heatmaps, others=others)


@pytest.mark.parametrize(
    "bad",
    [
        {"pixels_per_step": 0},
        {"noise_maps": 0},
        {"forward_batch_size": 1.5},
        {"looks": 0},
        {"first_look": 0},
        {"fill": "noise"},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        build_metric("decision_flip", bad)

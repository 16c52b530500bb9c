"""Insertion and deletion against a loop over steps, RISE's and InputIBA's formulas written out, and
cases with a known answer.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_toys import SIDE, Additive, curved, frozen, sample
from scipy.ndimage import convolve, gaussian_filter
from torchvision.transforms.functional import gaussian_blur

from lit_iba.errors import InputError
from lit_iba.metrics import build_metric
from lit_iba.metrics.insertion_deletion import blurred


def probability(classifier, image, target):
    with torch.no_grad():
        return float(classifier(image[None]).softmax(dim=1)[0, target])


def pictures_by_hand(image, heatmap, baseline, inserts, step):
    """The picture before the first step and after each, exchanged pixel by pixel."""
    width = heatmap.shape[1]
    order = sorted(range(heatmap.numel()), key=lambda p: (-float(heatmap.flatten()[p]), p))
    now, goal = (baseline.clone(), image) if inserts else (image.clone(), baseline)
    pictures = [now.clone()]
    for done in range(0, len(order), step):
        for p in order[done : done + step]:
            now[:, p // width, p % width] = goal[:, p // width, p % width]
        pictures.append(now.clone())
    return pictures


def judged(name, classifier, images, targets, heatmaps, settings):
    metric = build_metric(name, settings)
    metric.update(classifier, images, targets, heatmaps)
    return metric


@pytest.mark.parametrize("name", ["insertion", "deletion"])
@pytest.mark.parametrize("size", [(12, 12), (9, 7)])
@pytest.mark.parametrize("step", [1, 10])
def test_curve_equals_the_loop_over_steps(name, size, step):
    classifier, (images, targets, heatmaps) = curved(), sample(3, size=size)
    heatmaps = heatmaps.round()  # with ties
    metric = judged(
        name,
        classifier,
        images,
        targets,
        heatmaps,
        {"pixels_per_step": step, "forward_batch_size": 7},
    )
    for i in range(3):
        pictures = pictures_by_hand(
            images[i], heatmaps[i], torch.zeros(3, *size), name == "insertion", step
        )
        wanted = [probability(classifier, picture, targets[i]) for picture in pictures]
        assert metric.rows()["probability"][i].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        area = sum((a + b) / 2 for a, b in itertools.pairwise(wanted)) / (len(wanted) - 1)
        assert float(metric.scores(metric.rows())["score"][i]) == pytest.approx(area, rel=1e-4)
    scores = metric.scores(metric.rows())["score"]
    result = metric.compute()
    assert result.score == pytest.approx(float(scores.mean()))
    assert result.standard_error == pytest.approx(float(scores.std()) / 3**0.5)
    assert result.curves[name]["y"] == pytest.approx(
        metric.rows()["probability"].double().mean(dim=0).tolist()
    )
    assert (result.curves[name]["x"][0], result.curves[name]["x"][-1]) == (0, 1)


def rise_substrate(image):
    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    kernel = gaussian_filter(kernel, 5)
    return torch.stack(
        [torch.from_numpy(convolve(c.numpy(), kernel, mode="constant")) for c in image.double()]
    ).float()


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_preset_rise_is_the_formula_of_its_code(name):
    classifier, (images, targets, heatmaps) = (
        curved(),
        sample(3, size=(16, 14)),
    )  # 224 pixels: one step
    metric = judged(
        name, classifier, images, targets, heatmaps, {"preset": "rise", "pixels_per_step": 28}
    )
    assert build_metric(name, {"preset": "rise"}).settings["pixels_per_step"] == 224
    areas = []
    for image, heatmap in zip(images, heatmaps, strict=True):
        predicted = int(classifier(image[None]).argmax())
        substrate = rise_substrate(image) if name == "insertion" else torch.zeros_like(image)
        curve = [
            probability(classifier, picture, predicted)
            for picture in pictures_by_hand(image, heatmap, substrate, name == "insertion", 28)
        ]
        areas.append((sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1))
    assert metric.scores(metric.rows())["score"].tolist() == pytest.approx(areas, rel=1e-4)


@pytest.mark.parametrize("name", ["insertion", "deletion"])
@pytest.mark.parametrize("aliased", [False, True])
def test_presets_input_iba_and_reference_are_the_formulas_of_its_code(name, aliased):
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    metric = judged(
        name,
        classifier,
        images,
        targets,
        heatmaps,
        {"preset": "reference", "staircase": 4} if aliased else {"preset": "input_iba"},
    )
    assert build_metric(name, {"preset": "reference"}).settings["staircase"] == 80
    areas = []
    for image, target, heatmap in zip(images, targets, heatmaps, strict=True):
        base = gaussian_blur(image, 9, 5.0) if name == "insertion" else torch.zeros_like(image)
        pictures = pictures_by_hand(image, heatmap, base, name == "insertion", 10)[1:]
        if aliased:  # four pictures per forward pass, all of them the last one
            pictures = [
                pictures[min(i // 4 * 4 + 3, len(pictures) - 1)] for i in range(len(pictures))
            ]
        curve = [probability(classifier, picture, target) for picture in pictures]
        areas.append(np.trapezoid(curve, dx=1 / len(curve)))
    assert metric.scores(metric.rows())["score"].tolist() == pytest.approx(areas, rel=1e-4)


def test_blurs_are_those_of_torchvision_and_of_rise():
    images = torch.randn(2, 3, 20, 15, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        blurred(images, 3.0, 9), gaussian_blur(images, 9, 3.0), rtol=1e-4, atol=1e-5
    )
    wanted = torch.stack([rise_substrate(image) for image in images])
    torch.testing.assert_close(blurred(images, 5.0, 11, "rise"), wanted, rtol=1e-4, atol=1e-5)


def test_true_order_is_best_and_its_negative_mirrors_it():
    generator = torch.Generator().manual_seed(3)
    weight = torch.rand(12, 12, generator=generator) * 0.2
    classifier, images = frozen(Additive(weight)), torch.rand(4, 3, 12, 12, generator=generator)
    truth, targets = images.mean(dim=1) * weight, torch.ones(4, dtype=torch.int64)

    def score(name, heatmaps):
        return (
            judged(name, classifier, images, targets, heatmaps, {"pixels_per_step": 9})
            .compute()
            .score
        )

    for seed in range(5):
        other = torch.randn(4, 12, 12, generator=torch.Generator().manual_seed(seed))
        assert score("insertion", truth) > score("insertion", other)
        assert score("deletion", truth) < score("deletion", other)
    # What is inserted first is deleted last by the negative map: the same pictures in the opposite
    # order.
    assert score("insertion", truth) == pytest.approx(score("deletion", -truth), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 50), st.booleans(), st.none() | st.integers(1, 9))
def test_points_are_those_of_the_steps(pixels, step, unperturbed, staircase):
    metric = build_metric(
        "deletion", {"pixels_per_step": step, "unperturbed": unperturbed, "staircase": staircase}
    )
    points, gone = [0] if unperturbed else [], list(range(step, pixels + step, step))
    gone = [min(g, pixels) for g in gone]
    for i in range(len(gone)):
        end = (
            i
            if staircase is None
            else min(i // staircase * staircase + staircase - 1, len(gone) - 1)
        )
        points.append(gone[end])
    assert metric._points(pixels).tolist() == points


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_a_map_without_order_still_has_both_ends_and_shared_ends_change_nothing(name):
    classifier, (images, targets, _) = curved(), sample(2)
    flat = torch.full((2, 12, 12), 0.1)
    metric, shared = (build_metric(name, {"pixels_per_step": 144}) for _ in range(2))
    metric.update(classifier, images, targets, flat)
    shared.update(
        classifier, images, targets, flat, shared=shared.shared_scores(classifier, images, targets)
    )
    ends = [
        [probability(classifier, p, t) for p in (i, torch.zeros_like(i))]
        for i, t in zip(images, targets, strict=True)
    ]
    wanted = torch.tensor(ends).flip(1) if name == "insertion" else torch.tensor(ends)
    torch.testing.assert_close(metric.rows()["probability"], wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(shared.rows()["probability"], metric.rows()["probability"])


@pytest.mark.parametrize(
    "bad",
    [
        {"pixels_per_step": 0},
        {"baseline": "mean"},
        {"target": "label"},
        {"blur_edges": "wrap"},
        {"blur_kernel": 8},
        {"blur_sigma": 0.0},
        {"staircase": 0},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        build_metric("insertion", bad)


def test_pictures_of_two_sizes_are_refused_instead_of_averaged():
    metric = build_metric("deletion", {"pixels_per_step": 72})
    metric.update(curved(), *sample(2))
    metric.update(curved(), *sample(2, size=(12, 10)))
    with pytest.raises(InputError, match="one size"):
        metric.compute()


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_one_step_without_its_beginning_is_refused(name):
    images, targets, heatmaps = sample(2)
    one = {"pixels_per_step": SIDE * SIDE}
    metric = build_metric(name, one | {"unperturbed": False})
    with pytest.raises(InputError, match="give fewer pixels per step"):
        metric.update(curved(), images, targets, heatmaps)
    for chosen in (one, {"pixels_per_step": SIDE * SIDE - 1, "unperturbed": False}):
        metric = build_metric(name, chosen)
        metric.update(curved(), images, targets, heatmaps)
        assert metric.compute().score > 0


def test_a_kernel_that_a_picture_cannot_mirror_is_refused():
    metric = build_metric("insertion", {"baseline": "blur", "blur_kernel": 2 * SIDE + 1})
    with pytest.raises(InputError, match=f"too large to mirror .* give {2 * SIDE - 1} or less"):
        metric.update(curved(), *sample(2))
    largest = {"baseline": "blur", "blur_kernel": 2 * SIDE - 1, "pixels_per_step": SIDE * SIDE}
    build_metric("insertion", largest).update(curved(), *sample(2))

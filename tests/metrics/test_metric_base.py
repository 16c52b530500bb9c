"""What all metrics promise: batches do not matter, processes do not matter, bad input is refused by
name.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from metric_toys import SIDE, curved, frozen, others_of, sample

from lit_iba.errors import InputError
from lit_iba.metrics import HeatmapMetric, build_metric

METRICS = {
    "degradation": {"tile": 4},
    "bounding_box": {},
    "sensitivity_n": {"tile": 4, "points": 3, "masks": 6},
    "insertion": {"pixels_per_step": 20, "baseline": "blur"},
    "deletion": {"pixels_per_step": 20, "staircase": 3},
    "ehr": {},
    "low_k_perturbation": {},
    "decision_flip": {"pixels_per_step": 10, "noise_maps": 2},
}


def masks(count):
    mask = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i in range(count):
        mask[i, : i + 1, :4] = True
    return mask


def judged(name, parts, forward_batch_size=16):
    """The metric after the samples of each part, int64 numbers."""
    extra = {} if name in ("bounding_box", "ehr") else {"forward_batch_size": forward_batch_size}
    metric = build_metric(name, METRICS[name] | extra)
    images, _, heatmaps = sample(6)
    with torch.no_grad():
        targets = curved()(images).argmax(dim=1)
    others = others_of(heatmaps, metric.others_wanted)
    for part in parts:
        extra = {"object_mask": masks(6)[part], "others": None if others is None else others[part]}
        metric.update(curved(), images[part], targets[part], heatmaps[part], **extra)
    return metric


def in_batches(*sizes):
    return torch.arange(6).split(sizes)


@pytest.mark.parametrize("name", METRICS)
def test_result_depends_neither_on_batches_nor_on_forward_batch_size(name):
    whole = judged(name, in_batches(6))
    for batches, size in (([1] * 6, 1), ([4, 2], 5), ([5, 1], 1000)):
        other = judged(name, in_batches(*batches), size)
        for row, values in whole.rows().items():
            torch.testing.assert_close(
                other.rows()[row], values, rtol=1e-4, atol=1e-5, equal_nan=True
            )
        assert other.compute().score == pytest.approx(whole.compute().score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_result_follows_from_rows_alone_and_scores_average_to_it(name):
    metric = judged(name, in_batches(3, 3))
    fresh = build_metric(name, METRICS[name])
    assert fresh.summarize(metric.rows()).to_dict() == metric.compute().to_dict()
    assert float(metric.scores(metric.rows())["score"].double().nanmean()) == pytest.approx(
        metric.compute().score
    )


@pytest.mark.parametrize("name", METRICS)
def test_reset_forgets_and_definition_names_every_setting_that_matters(name):
    metric = judged(name, in_batches(6))
    metric.reset()
    assert all(len(values) == 0 for values in metric.rows().values())
    for setting, value in metric.identity["settings"].items():
        if value is not None and setting not in (
            "min_fraction",
            "max_fraction",
            "max_box_fraction",
            "baseline",
            "unperturbed",
        ):
            assert str(value) in metric.definition, setting


@pytest.mark.slow
def test_processes_together_compute_what_one_process_does(tmp_path):
    script = Path(__file__).with_name("metric_process.py")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in METRICS:
        alone = judged(name, in_batches(2, 4)).compute()
        for rank in range(2):
            for case in ("split", "all_on_0"):
                together = json.loads((tmp_path / f"{rank}.json").read_text())[f"{name}/{case}"]
                assert together["score"] == pytest.approx(alone.score, rel=1e-4)
                assert together["standard_error"] == pytest.approx(alone.standard_error, rel=1e-4)
                assert together["n"] == alone.n
                for curve, values in alone.curves.items():
                    assert together["curves"][curve]["y"] == pytest.approx(
                        values["y"], rel=1e-3, abs=1e-5
                    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, t, h, m: (i, t, h[:, :5], m), "heatmaps must be"),
        (lambda i, t, h, m: (i, t, h[:1], m), "heatmaps must be"),
        (lambda i, t, h, m: (i, t, torch.where(h > 2, torch.nan, h), m), "second contain NaN"),
        (lambda i, t, h, m: (i, t + 4, h, m), "out of range"),
        (lambda i, t, h, m: (i[0], t, h, m), "images must be"),
        (lambda i, t, h, m: (i, t, h, m[:, :3]), "object_mask has shape"),
    ],
)
def test_bad_input_is_refused_by_name(name, change, message):
    images, targets, heatmaps = sample(2)
    heatmaps = heatmaps.clamp(-1, 1)
    heatmaps[1, 0, 0] = 3
    images, targets, heatmaps, mask = change(images, targets, heatmaps, masks(2))
    metric = build_metric(name, METRICS[name])
    with pytest.raises(InputError, match=message):
        metric.update(
            curved(), images, targets, heatmaps, object_mask=mask, keys=["first", "second"]
        )
    assert int(metric.images_seen) == 0


@pytest.mark.parametrize("name", METRICS)
def test_scores_are_the_same_for_a_network_in_float64_and_under_a_callers_autocast(name):
    classifier, (images, targets, heatmaps) = curved(), sample(3)
    double = frozen(copy.deepcopy(classifier.model).double())
    found = []
    for network, cast in ((classifier, False), (classifier, True), (double, False)):
        metric = build_metric(name, METRICS[name])
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            metric.update(
                network,
                images,
                targets,
                heatmaps,
                object_mask=masks(3),
                others=others_of(heatmaps, metric.others_wanted),
            )
        found.append(metric.rows())
    for row, wanted in found[0].items():
        torch.testing.assert_close(found[1][row], wanted, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(found[2][row], wanted, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("degradatoin", {}, "did you mean 'degradation'"),
        ("no_such_package.Metric", {}, "cannot be imported"),
        ("lit_iba.heatmap.Heatmap", {}, "is no HeatmapMetric"),
        ("degradation", {"preset": "refrence"}, "did you mean 'reference'"),
        (
            "bounding_box",
            {"tile": 8},
            "'tile' is not a known setting of bounding_box; known: max_box",
        ),
    ],
)
def test_unknown_names_and_settings_are_refused_with_the_nearest(name, settings, message):
    with pytest.raises(InputError, match=message):
        build_metric(name, settings)


def test_presets_and_class_paths_build():
    preset = build_metric("degradation", {"preset": "reference", "tile": 14, "points": 50})
    assert preset.settings == {
        "tile": 14,
        "points": 50,
        "baseline": "mean_of_image",
        "t1": "top1",
        "forward_batch_size": 16,
    }
    assert isinstance(build_metric("lit_iba.metrics.BoundingBox"), HeatmapMetric)

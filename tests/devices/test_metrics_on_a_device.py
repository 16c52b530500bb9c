"""Every metric judged on a device: nothing stays on the CPU, and rows and results are the CPU's."""

from typing import Any

import pytest
import torch
from device_toys import SETTINGS, Nearby, build, narrow, pictures
from torch import Tensor

from lit_iba.metrics import build_metric
from lit_iba.metrics.base import Result
from lit_iba.metrics.judged import Subject
from lit_iba.metrics.registered import METRICS

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "degradation": ("degradation", {"points": 4}),
    "degradation (reference)": ("degradation", {"preset": "reference", "points": 4}),
    "bounding_box": ("bounding_box", {}),
    "sensitivity_n": ("sensitivity_n", {"points": 3, "masks": 4}),
    "insertion": ("insertion", {"baseline": "blur"}),
    "deletion": ("deletion", {}),
    "ehr": ("ehr", {}),
    "low_k_perturbation": ("low_k_perturbation", {}),
    "decision_flip": ("decision_flip", {"pixels_per_step": 128, "noise_maps": 1}),
    "sanity_check": ("sanity_check", {"points": 2, "flip": "signed"}),
    "latency": ("latency", {"repeats": 1}),
    "bits_and_accuracy": ("bits_and_accuracy", {"samples": 2}),
}
TIMED = ("seconds", "peak_bytes")  # differ from run to run


def judged(
    name: str, settings: dict[str, Any], where: torch.device | str
) -> tuple[dict[str, Tensor], Result]:
    classifier, metric = narrow().to(where), build_metric(name, settings).to(where)
    images, targets = classifier.images(pictures()), torch.tensor([0, 3, 2]).to(where)
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[:, 4:12, 6:20] = True
    maps = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(3))
    wanted = metric.others_wanted
    extra: dict[str, Any] = (
        {"others": maps.roll(1, 0)[:, None].expand(-1, wanted, -1, -1)} if wanted else {}
    )
    if metric.needs_subject:
        explainer = build("per_sample_iba", classifier)
        extra = {
            "subject": Subject.named(
                explainer, "per_sample_iba", SETTINGS["per_sample_iba"], Nearby()
            )
        }
    # Heatmaps and masks come from files, images from the device.
    for _ in range(1 if metric.needs_subject else 2):  # the second time with what it has kept
        shared = metric.shared_scores(classifier, images, targets)
        metric.update(
            classifier,
            images,
            targets,
            maps,
            object_mask=mask,
            keys=["a", "b", "c"],
            shared=shared,
            **extra,
        )
    return metric.rows(), metric.compute()


def test_every_metric_is_tried() -> None:
    assert {name for name, _ in CASES.values()} == set(METRICS)


@pytest.mark.parametrize("case", CASES)
def test_a_metric_gives_on_a_device_what_it_gives_on_the_cpu(
    case: str, device: torch.device
) -> None:
    rows, result = judged(*CASES[case], "cpu")
    found, found_result = judged(*CASES[case], device)
    for name, values in rows.items():
        assert found[name].device.type == device.type
        if name not in TIMED:
            # Off the CPU masks are blurred without convolutions, whose operations latency counts.
            rtol = 0.1 if case == "latency" else 1e-3
            torch.testing.assert_close(
                found[name].cpu(), values, rtol=rtol, atol=1e-4, equal_nan=True
            )
    if case != "latency":
        assert found_result.score == pytest.approx(result.score, rel=1e-3, abs=1e-4, nan_ok=True)
    assert found_result.n == result.n

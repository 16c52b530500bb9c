"""Every metric on a GPU judges as on the CPU, and so does a whole benchmark."""

from pathlib import Path

import benchmark_toys
import pytest
import torch
from device_toys import narrow, pictures
from lightning import Fabric
from same_draws import SameDraws

from lit_iba.metrics import build_metric
from lit_iba.metrics.registered import METRICS, metric_class

JUDGING = sorted(name for name in METRICS if not metric_class(name).needs_subject)
SETTINGS = {
    "degradation": {"points": 5},
    "insertion": {"pixels_per_step": 128},
    "deletion": {"pixels_per_step": 128},
    "sensitivity_n": {"tile": 4, "points": 3, "masks": 6},
    "decision_flip": {"pixels_per_step": 128, "noise_maps": 1},
}


@pytest.mark.parametrize("name", JUDGING)
def test_a_metric_judges_on_cuda_as_on_the_cpu(name: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    heatmaps = torch.rand(3, 32, 32, generator=generator)
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[:, 8:20, 4:24] = True
    rows = []
    for classifier in (narrow(), narrow().to(device)):
        metric = build_metric(name, SETTINGS.get(name)).to(classifier.device)
        extra = {}
        if metric.others_wanted:
            extra["others"] = torch.stack(
                [heatmaps.roll(-k, 0) for k in range(1, metric.others_wanted + 1)], 1
            )
        with SameDraws():
            metric.update(
                classifier,
                classifier.images(pictures()),
                torch.tensor([0, 3, 2]),
                heatmaps.to(classifier.device),
                object_mask=mask.to(classifier.device),
                keys=["a", "b", "c"],
                **extra,
            )
        assert all(
            values.device.type == classifier.device.type for values in metric.rows().values()
        )
        rows.append({row: values.cpu() for row, values in metric.rows().items()})
    for row, expected in rows[0].items():
        torch.testing.assert_close(rows[1][row], expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_a_benchmark_on_cuda_finds_what_it_finds_on_the_cpu(
    tmp_path: Path, accelerator: str
) -> None:
    data = benchmark_toys.make_data(tmp_path / "data")
    explainers = {"grad_cam": {"layer": "conv"}, "gradient": None, "occlusion": {"tile": 4}}
    metrics = {
        "degradation_4": {"metric": "degradation", "tile": 4},
        "bounding_box": {},
        "latency": {"repeats": 1},
    }
    found = []
    for place, chosen in (("here", "cpu"), ("there", accelerator)):
        run = benchmark_toys.benchmark(
            data, tmp_path / place, explainers=explainers, metrics=metrics
        )
        found.append(run.run(Fabric(accelerator=chosen, devices=1))["results"])
    for metric in ("degradation_4", "bounding_box"):
        for explainer in explainers:
            here, there = (results[metric][explainer] for results in found)
            assert there["n"] == here["n"]
            wanted = benchmark_toys.scored(here)
            found_there = benchmark_toys.scored(there)
            assert found_there == pytest.approx(wanted, rel=1e-3, abs=1e-4, nan_ok=True)

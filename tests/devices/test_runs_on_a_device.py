"""Whole runs on a device: a benchmark from shards to results, exports, panels, the survey,
corruptions, ROAR's ranks.
"""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_toys import scored
from device_toys import SETTINGS, SIDE, TRAINED, build, narrow, pictures
from PIL import Image
from torch import Tensor

from lit_iba.activity.panels import panels, write_panels
from lit_iba.activity.survey import SurveySettings, survey_classifier
from lit_iba.activity.zero_bias import check_zero_bias
from lit_iba.baselines.patterns import Patterns
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.data import ShardIndex, write_shards
from lit_iba.evaluation import Benchmark
from lit_iba.evaluation.roar_ranks import most_relevant, relevance_ranks
from lit_iba.evaluation.roar_training import (
    Pictures,
    Recipe,
    Retraining,
    hits,
    shifted_and_mirrored,
)
from lit_iba.export import export_explainer
from lit_iba.randomness import sample_generators
from lit_iba.varsal.uncertainty_run import UncertaintySettings, changed_images, errors

EXPLAINERS = {
    "bottleneck": {"explainer": "per_sample_iba", **SETTINGS["per_sample_iba"]},
    "random": {},
    "pattern_attribution": {},
}
METRICS = {
    "degradation": {"points": 2},
    "ehr": {},
    "sensitivity_n": {"points": 2, "masks": 2},
    "decision_flip": {"pixels_per_step": 512, "noise_maps": 1},
}


class OneDevice:
    """What a benchmark asks a Fabric."""

    global_rank, world_size = 0, 1

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def barrier(self) -> None:
        """Nobody else is there."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Four pictures in two shards, each with a label and a box."""
    samples: list[dict[str, Any]] = []
    for i, picture in enumerate(pictures(4)):
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
        box = {"bbox": [[4, 6, 20, 18]], "width": SIDE, "height": SIDE}
        samples.append({"key": f"picture{i}", "png": file.getvalue(), "cls": i % 5, "json": box})
    return write_shards(samples, tmp_path_factory.mktemp("shards"), "val", 2)


@pytest.mark.slow
def test_a_benchmark_gives_on_a_device_what_it_gives_on_the_cpu(
    data: ShardIndex, device: torch.device, tmp_path: Path
) -> None:
    scores = {}
    for where in ("cpu", device.type):
        run = Benchmark(
            narrow(),
            data,
            explainers=EXPLAINERS,
            metrics=METRICS,
            out=tmp_path / where,
            batch_size=2,
            statistics_data=data,
            statistics_images=8,
            gallery=1,
            panels=1,
        )
        found = run.run(OneDevice(where))["results"]
        scores[where] = {
            (metric, explainer, what): value
            for metric, of in found.items()
            for explainer, result in of.items()
            for what, value in scored(result).items()
            if what in ("score", "t1", "degraded_probability")
        }
    assert scores["cpu"] == pytest.approx(scores[device.type], rel=1e-2, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "varsal (sampled)"])
def test_what_an_export_traces_runs_on_a_device(name: str, device: torch.device) -> None:
    if name == "readout_input_iba":
        pytest.skip("what reads gradients is not traced")
    on_cpu, there = narrow(), narrow().to(device)
    expected, explainer = build(name, on_cpu), build(name, there)
    with torch.no_grad():
        found = explainer.program(there.images(pictures()))
        wanted = expected.program(on_cpu.images(pictures()))
    for one, other in zip(found, wanted, strict=True):
        assert one.device.type == device.type
        torch.testing.assert_close(
            one.cpu(), other, rtol=1e-3, atol=1e-3 * float(other.abs().max())
        )


def test_an_explainer_is_exported_from_a_device(device: torch.device, tmp_path: Path) -> None:
    explainer = build("readout_iba", narrow().to(device))
    export_explainer(explainer, tmp_path / "export", ["safetensors"], progress=False)
    assert explainer.network.bias.device.type == device.type


@pytest.mark.slow
def test_panels_and_survey_on_a_device(
    data: ShardIndex, device: torch.device, tmp_path: Path
) -> None:
    classifier = narrow().to(device)
    figures, sums = panels(classifier, pictures(2), torch.tensor([0, 1]))
    write_panels(tmp_path, figures, sums, torch.tensor([0, 1]), ["a", "b"])
    settings = SurveySettings(
        scales=(0.5,),
        shifts=(0.2,),
        max_images=4,
        reestimate_images=4,
        regression_images=4,
        batch_size=4,
    )
    for where in ("cpu", device):
        survey_classifier(narrow().to(where), data, settings)
    check = check_zero_bias(classifier)
    assert check.largest_bias == pytest.approx(check_zero_bias(narrow()).largest_bias)


def test_patterns_come_from_a_device_into_a_file(device: torch.device, tmp_path: Path) -> None:
    classifier = narrow().to(device)
    Patterns.estimate(classifier, classifier.images(pictures(8))).save(
        tmp_path / "patterns.safetensors"
    )
    assert Patterns.load(tmp_path / "patterns.safetensors", classifier).tensors


def test_corruptions_and_their_errors_on_a_device(device: torch.device) -> None:
    classifier, settings = narrow().to(device), UncertaintySettings(percentages=(50,))
    images = classifier.images(pictures())
    for corruption in settings.corruptions:
        changed = changed_images(classifier, images, ["a", "b", "c"], (corruption, 3), 0)
        assert changed.device.type == device.type
    maps = build("varsal", classifier).attribute(images, 0).values
    assert errors(classifier, images, maps[:, None], settings).shape == (3, 1)


def test_heatmaps_of_a_device_are_drawn_and_saved(device: torch.device, tmp_path: Path) -> None:
    classifier = narrow().to(device)
    images = classifier.images(pictures())
    heatmap = build("varsal", classifier).attribute(images)
    assert heatmap.overlay(images).device.type == "cpu"
    deviation = heatmap.resize((16, 16)).deviation()
    assert deviation is not None
    assert deviation.save_png(tmp_path / "map.png").is_file()
    assert "<img" in heatmap._repr_html_()


def test_roar_ranks_and_trains_on_a_device(device: torch.device) -> None:
    maps = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).relu()
    ranks = relevance_ranks(maps.to(device), ["a", "b", "c"])
    assert torch.equal(ranks.cpu(), relevance_ranks(maps, ["a", "b", "c"]))

    def logits(where: torch.device | str) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = SmallCNN(5, width=4)
        data = Pictures(
            pictures(),
            torch.tensor([0, 1, 2]),
            most_relevant(relevance_ranks(maps, ["a", "b", "c"]), 30),
        )
        module = Retraining(
            network, Recipe(), torch.rand(3) * 0 + 0.5, torch.ones(3), torch.Generator()
        ).to(where)
        loss = module.training_step(data.to(torch.device(where)), 0)
        loss.backward()
        assert hits(module, data).device.type == "cpu"
        return loss.detach().cpu()

    torch.testing.assert_close(logits(device), logits("cpu"))
    moved = shifted_and_mirrored(pictures().float().to(device), torch.Generator().manual_seed(0))
    assert moved.device.type == device.type


def test_generators_of_a_device_are_no_generators_of_the_cpu(device: torch.device) -> None:
    """The device itself: it refuses what a GPU refuses."""
    (generator,) = sample_generators(0, ["a"], device)
    for refused in (
        lambda: torch.zeros(2, device=device) + torch.zeros(2),
        lambda: torch.randn(2, generator=generator),
        lambda: torch.randn(2, device=device, generator=torch.Generator()),
        lambda: torch.zeros(2, device=device).numpy(),
        lambda: torch.nn.functional.conv2d(
            torch.zeros(1, 1, 3, 3, device=device), torch.zeros(1, 1, 3, 3)
        ),
        lambda: torch.zeros(3)[torch.zeros(2, dtype=torch.int64, device=device)],
    ):
        with pytest.raises(RuntimeError):
            refused()

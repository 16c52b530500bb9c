"""The benchmark on real photographs."""

from pathlib import Path

import pytest
from lightning import Fabric

from lit_iba.classifier import FrozenClassifier
from lit_iba.evaluation import Benchmark


@pytest.mark.realdata
@pytest.mark.slow
def test_grad_cam_beats_chance_on_real_photographs(realdata: Path, tmp_path: Path) -> None:
    weights = realdata / "weights" / "resnet18_pqf.safetensors.xz"
    results = Benchmark(
        FrozenClassifier("resnet18", str(weights)),
        str(realdata / "imagenet_val_boxes-000000.tar"),
        {"random": {}, "grad_cam": {"layer": "layer4"}},
        {
            "degradation_32": {"metric": "degradation", "tile": 32, "points": 6},
            "bounding_box": {},
            "sensitivity_n": {"tile": 32, "points": 2, "masks": 8},
        },
        tmp_path,
        max_images=5,
        max_box_fraction=0.33,
    ).run(Fabric(accelerator="cpu", devices=1))
    for metric, found in results["results"].items():
        assert found["grad_cam"]["score"] > found["random"]["score"] + 0.1, metric
    # A random map finds what chance finds.
    box = results["results"]["bounding_box"]["random"]
    assert box["score"] == pytest.approx(box["extra"]["chance"], abs=0.03)

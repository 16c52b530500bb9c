"""The panels' picture and numbers, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from activity_toys import with_biases
from matplotlib.colors import to_rgb
from PIL import Image

from lit_iba.activity import Decomposition, NetworkLayers
from lit_iba.activity.decomposition import layer_sums
from lit_iba.activity.panels import panels
from lit_iba.cli.main import main


def test_every_panel_carries_its_sum() -> None:
    classifier = with_biases("resnet18").float()
    pictures = torch.randint(
        0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    targets = torch.tensor([4, 5])
    figures, sums = panels(classifier, pictures, targets, names=["one", "other $1"])
    expected = layer_sums(classifier, classifier.images(pictures), targets)
    assert torch.allclose(sums.activity, expected.activity, rtol=1e-3, atol=1e-3)
    assert torch.allclose(sums.bias["layer2.0"], expected.bias["layer2.0"], rtol=1e-3, atol=1e-3)
    for i, figure in enumerate(figures):
        titles = [axes.get_title() for axes in figure.axes]
        for value in [*sums.activity[i], *(sums.bias[name][i] for name in sums.layers[1:])]:
            assert f"{float(value):.4g}" in titles
        shown = [axes for axes in figure.axes if axes.images]
        assert (
            len(shown) == 1 + 10 + 9
        )  # the picture, input and nine layers, the biases of nine layers
        figure.canvas.draw()
        assert torch.equal(
            torch.tensor(shown[0].images[0].get_array()), pictures[i].permute(1, 2, 0)
        )
        # The first row is the activity, the second the bias; red speaks for the class.
        known = NetworkLayers(classifier)
        found = Decomposition(known, known.names, list(known.bias_nodes)).attribute(
            classifier.images(pictures[i : i + 1]), targets[i : i + 1]
        )
        drawn = torch.tensor(np.asarray(shown[10].images[0].get_array()))
        assert torch.allclose(drawn, found.activity["layer4.1"].map[0], rtol=1e-3, atol=1e-4)
        for axes in shown[1:]:
            image = axes.images[0]
            low, high = image.get_clim()
            assert low == -high < 0
            red, _, blue, _ = image.cmap(image.norm(high))
            assert red > blue
            total = float(axes.get_title())
            ink = to_rgb(axes.title.get_color())
            assert (ink[0] > ink[2]) == (total > 0)


def test_panels_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(tmp_path / name)
    command = [
        "panels",
        str(tmp_path / "a.png"),
        str(tmp_path / "b.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    classifier = [
        "--classifier.model",
        "small_cnn",
        "--classifier.weights",
        "random",
        "--device",
        "cpu",
    ]
    assert (
        main([*command, *classifier, "--layers", '["layer1", "layer2", "layer3"]'], "evaluate.py")
        == 0
    )
    sums = json.loads((tmp_path / "out" / "sums.json").read_text())
    assert list(sums) == ["a", "b"]
    assert sums["a"]["layers"] == ["input", "layer1", "layer2", "layer3"]
    assert max(sums["b"]["completeness_error"]) < 1e-3
    total = sums["a"]["activity"][0] + sum(sums["a"]["bias"].values())
    assert total == pytest.approx(sums["a"]["score"], rel=1e-3)
    with Image.open(tmp_path / "out" / "a.panels.png") as drawn:
        assert drawn.size[0] > 400
    assert main([*command, *classifier, "--target", "11"], "evaluate.py") == 2
    assert "target class 11 is out of range" in capsys.readouterr().err

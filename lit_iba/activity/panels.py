"""One row of panels per image: the attributions of every layer, each with its gross sum over it.

Figures 2 and 4 of Grabska-Barwińska, "Measuring and improving the quality of visual explanations":
red speaks for the class, blue against it; in one column, the activity's sum and the bias sums of
all columns to its right make the class score (equation 13).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lit_iba.activity.bias_explainers import layer_bias_map
from lit_iba.activity.decomposition import Decomposition, LayerSums, say_if_inexact, sums_of
from lit_iba.activity.layers import INPUT, NetworkLayers
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import drawn
from lit_iba.drawing import drawn_letters
from lit_iba.files import whole_file, write_text

# quantile of |a| at which a panel's colours end, so that one position does not pale the rest
EXTREME = 0.995


def panels(
    classifier: FrozenClassifier,
    pictures: Tensor,
    targets: Tensor,
    *,
    layers: Sequence[str] | None = None,
    biases: bool = True,
    names: Sequence[str] | None = None,
) -> tuple[list[Figure], LayerSums]:
    """Draw the decompositions of class scores, one figure per image.

    Args:
        classifier: The network.
        pictures: uint8 (B, C, H, W).
        targets: (B, ...), classes or what else the objective asks.
        layers: The network's layers; None finds them.
        biases: Whether to draw the bias attributions as a second row (figure 2), or the activity
            alone (figure 4).
        names: What to call each image.

    Returns:
        One figure per image, and the sums that stand in them.

    Raises:
        InputError: As of :class:`NetworkLayers`.
    """
    known = NetworkLayers.of(classifier, layers)
    say_if_inexact(classifier, known.inexact)
    shown = [INPUT, *known.names]
    passes = Decomposition(known, shown, list(known.bias_nodes))
    parts = [
        passes.attribute(classifier.images(p), t.to(classifier.device))
        for p, t in zip(pictures.split(1), targets.split(1), strict=True)
    ]
    figures, sums = [], []
    for i, found in enumerate(parts):
        sums.append(sums_of(known, found))
        activity = [found.activity[name].map[0] for name in shown]
        with_bias = [name for name in known.names if name in sums[i].bias]
        bias = {name: layer_bias_map(found, known, name)[0] for name in with_bias} if biases else {}
        asked = classifier.objective.described(targets[i], classifier.class_names)
        title = f"{names[i]}: {asked}" if names else asked
        title = drawn_letters(title).replace("$", r"\$") + f", $f_c$ = {float(sums[i].score):.4g}"
        figures.append(_figure(pictures[i], activity, bias, sums[i], title))
    return figures, _joined(sums)


def write_panels(
    folder: Path, figures: Sequence[Figure], sums: LayerSums, targets: Tensor, names: Sequence[str]
) -> None:
    """Write ``<name>.panels.png`` for every image, and ``sums.json`` for all, each by atomic
    rename.

    Args:
        folder: Where to.
        figures: One figure per image, from :func:`panels`.
        sums: The sums that stand in them.
        targets: (B, ...), classes or what else the objective asks.
        names: A file name for each image, and its key in ``sums.json``.
    """
    for name, figure in zip(names, figures, strict=True):
        with whole_file(folder / f"{name}.panels.png") as part:
            figure.savefig(part, format="png", dpi=110, facecolor="white")
    rows: dict[str, dict[str, Any]] = {
        name: {
            "target": targets[i].tolist(),
            "score": float(sums.score[i]),
            "layers": sums.layers,
            "activity": sums.activity[i].tolist(),
            "bias_above": sums.bias_above[i].tolist(),
            "bias": {layer: float(value[i]) for layer, value in sums.bias.items()},
            "completeness_error": [
                None if value != value else value for value in sums.error[i].tolist()
            ],
        }
        for i, name in enumerate(names)
    }
    write_text(folder / "sums.json", json.dumps(rows, indent=1) + "\n")


def _figure(
    picture: Tensor, activity: list[Tensor], bias: dict[str, Tensor], sums: LayerSums, title: str
) -> Figure:
    """The picture, then a column a layer, then the biases that have no place in the picture as
    numbers.
    """
    rows, columns = 2 if bias else 1, len(activity) + 2
    figure = Figure(figsize=(1.15 * columns + 0.4, 1.42 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_box_aspect(picture.shape[1] / picture.shape[2])
        axes.set_axis_off()
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    grid[0, 0].imshow(drawn(picture[None])[0].permute(1, 2, 0).cpu().numpy())
    for place, (name, values) in enumerate(zip(sums.layers, activity, strict=True), start=1):
        _panel(grid[0, place], values, float(sums.activity[0, place - 1]))
        _write(grid[0, place], 0.5, -0.03, name, size=6, vertical="top")
        if name in bias:
            _panel(grid[1, place], bias[name], float(sums.bias[name]))
    _write(grid[0, 1], -0.1, 0.5, "$a^h$", size=9)
    if bias:
        _write(grid[1, 1], 0.9, 0.5, "$a^b$", size=9)
    rest = {name: float(value) for name, value in sums.bias.items() if name not in sums.layers}
    lines = [f"{name}\n{value:.4g}" for name, value in rest.items()]
    _write(grid[rows - 1, -1], 0.5, 0.5, "\n".join(lines), size=6, color=_ink(sum(rest.values())))
    return figure


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    vertical: str = "center",
    color: str = "black",
) -> None:
    axes.text(
        x, y, text, fontsize=size, ha="center", va=vertical, color=color, transform=axes.transAxes
    )


def _panel(axes: Axes, values: Tensor, total: float) -> None:
    shown = values.detach().float().cpu()
    limit = max(float(torch.quantile(shown.abs().flatten(), EXTREME)), 1e-30)
    axes.imshow(np.asarray(shown), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_title(f"{total:.4g}", fontsize=7, color=_ink(total), pad=2)


def _ink(value: float) -> str:
    return "#a01a2c" if value > 0 else "#1f4e9c"


def _joined(sums: list[LayerSums]) -> LayerSums:
    first = sums[0]
    bias = {name: torch.cat([s.bias[name] for s in sums]) for name in first.bias}
    tensors = {
        which: torch.cat([getattr(s, which) for s in sums])
        for which in ("score", "activity", "bias_above", "error")
    }
    return LayerSums(layers=first.layers, bias=bias, **tensors)

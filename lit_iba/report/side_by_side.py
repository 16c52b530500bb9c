"""One photograph beside its maps by several methods, as a picture: the form of figures 1 and 2 of
InputIBA (Zhang et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure
from torch import Tensor

from lit_iba.drawing import drawn_letters
from lit_iba.files import whole_file
from lit_iba.heatmap import Heatmap

INCH, DPI = 1.7, 150  # a picture's width; 255 pixels
CHARACTERS = 32  # of a caption, that are as wide as a picture


def save_side_by_side(
    path: Path, picture: Tensor, title: str, heatmaps: Mapping[str, Heatmap]
) -> Path:
    """Write the picture and one map of each method, in a row, as PNG.

    Args:
        path: Of the PNG file; it appears whole.
        picture: uint8 (3, H, W).
        title: Of the picture: what is explained.
        heatmaps: Of each method by what it is called, one map of (1, H, W); below one in bits
            stands its total.
    """
    columns, shape = len(heatmaps) + 1, picture.shape[-2] / picture.shape[-1]
    figure = Figure(figsize=(INCH * columns, INCH * shape + 0.55), layout="constrained")
    cells = figure.subplots(1, columns)
    shown = [(title, None), *heatmaps.items()]
    for axes, (name, one) in zip(cells, shown, strict=True):
        colours = picture if one is None else one.colored()[0]
        axes.imshow(colours.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        title = drawn_letters(name)
        axes.set_title(title, fontsize=8, pad=3, wrap=True, parse_math=False)  # $ is a letter
        axes.set_xticks([])
        axes.set_yticks([])
        if one is not None:
            said = [f"{float(one.total):,.0f} bits"] if one.unit == "bits" else []
            below = [fill(text, CHARACTERS) for text in filter(None, said + one.how_drawn())]
            axes.set_xlabel("\n".join(below), fontsize=7)
    with whole_file(path) as part:
        figure.savefig(part, dpi=DPI, format="png")
    return path

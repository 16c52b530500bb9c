"""Photographs of a benchmark's gallery with the maps of all its methods side by side, and the
deviation of VarSal beside its mean.

    python benchmarks/varsal_panel.py RUN panel.png --deviation_of varsal=CHECKPOINT
        [--methods grad_cam varsal] [--rows 8]

RUN is the folder of a benchmark; the method before "=" is the one that the deviation stands beside.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

from lit_iba import Heatmap
from lit_iba.files import read_text
from lit_iba.varsal import VarSal


def columns_of(
    run: Path, methods: list[str], deviation_of: str | None, rows: int
) -> dict[str, Tensor]:
    """Titles and uint8 pictures (N, 3, H, W), from left to right."""
    tensors = load_file(run / "gallery.safetensors")
    pictures = tensors["pictures"][:rows]
    beside, _, checkpoint = (deviation_of or "").partition("=")
    columns = {"image": pictures}
    for method in methods:
        heatmap = Heatmap(tensors[f"heatmap/{method}"][:rows], signed=method.startswith("varsal"))
        columns[method] = heatmap.colored()
        if method == beside:
            encoder = VarSal.load(checkpoint)
            with torch.no_grad():
                _, deviation = encoder.posterior(encoder.classifier.images(pictures))
            columns[f"{method}: deviation"] = Heatmap(deviation).colored()
    return columns


def main() -> None:
    """Draw the panel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out")
    parser.add_argument("--deviation_of")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--rows", type=int, default=8)
    given = parser.parse_args()
    names = json.loads(read_text(given.run / "results.json"))["explainers"]
    columns = columns_of(given.run, given.methods or list(names), given.deviation_of, given.rows)
    rows = len(columns["image"])
    figure = Figure(figsize=(1.5 * len(columns), 1.5 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for place, (title, pictures) in enumerate(columns.items()):
        grid[0, place].set_title(title.replace("_", " "), fontsize=8)
        for row, picture in enumerate(pictures):
            grid[row, place].imshow(picture.permute(1, 2, 0).numpy())
            grid[row, place].set_axis_off()
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()

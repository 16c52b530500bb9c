"""The README's picture, from a benchmark's gallery:
``python docs/heatmaps_figure.py runs/quickstart/benchmark``.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors import safe_open

from lit_iba import Heatmap

SIGNED = {"gradient", "integrated_gradients"}


def main(run: Path, out: Path, rows: int = 4) -> None:
    """Draw ``rows`` pictures of a run's gallery, each with the overlays of all methods."""
    with safe_open(run / "gallery.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name)[:rows] for name in file.keys()}  # noqa: SIM118 - not a dict
    pictures = tensors["pictures"]
    methods = [name.removeprefix("heatmap/") for name in tensors if name.startswith("heatmap/")]
    order = [
        "per_sample_iba",
        "readout_iba",
        "grad_cam",
        "integrated_gradients",
        "gradient",
        "saliency",
        "random",
    ]
    methods = [m for m in order if m in methods] + [m for m in methods if m not in order]
    figure, axes = plt.subplots(
        rows, len(methods) + 1, figsize=(1.45 * (len(methods) + 1), 1.5 * rows + 0.2)
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for column, method in enumerate(["image", *methods]):
        heatmap = (
            None
            if method == "image"
            else Heatmap(tensors[f"heatmap/{method}"], signed=method in SIGNED)
        )
        drawn = pictures if heatmap is None else heatmap.overlay(pictures)
        for row in range(rows):
            axes[row, column].imshow(drawn[row].permute(1, 2, 0).numpy(), interpolation="nearest")
            if heatmap is not None and method.endswith("iba"):
                bits = float(heatmap.values[row].sum())
                axes[row, column].text(
                    2, 62, f"{bits:.0f} bits", color="white", fontsize=8, va="bottom"
                )
        axes[0, column].set_title(method.replace("_", " ").replace("iba", "IBA"), fontsize=9)
    figure.subplots_adjust(
        left=0.005, right=0.995, top=0.94, bottom=0.005, wspace=0.04, hspace=0.04
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart/benchmark"),
        Path("docs/images/heatmaps.png"),
    )

"""How much of each map of a run lies on the grid that strided layers read: its mean at positions
of even row and column of the layer, over that at odd ones (IBA, figure 9). One is no grid.

    python benchmarks/grid_artefacts.py RUN --cells 56
"""

from __future__ import annotations

import argparse

import torch.nn.functional as F
from timing import show
from torch import Tensor

from lit_iba.report.run_folder import read_run


def grid_ratio(maps: Tensor, cells: int) -> Tensor:
    """The ratio of each map (N, H, W), averaged onto the layer's ``cells`` x ``cells`` positions:
    (N,).
    """
    on_grid = F.adaptive_avg_pool2d(maps[:, None], cells)[:, 0]
    even, odd = on_grid[:, ::2, ::2], on_grid[:, 1::2, 1::2]
    return even.mean(dim=(1, 2)) / odd.mean(dim=(1, 2))


def main() -> None:
    """Print the ratios of a run's gallery, a line a method and picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("run")
    parser.add_argument("--cells", type=int, required=True, help="side of the layer's grid")
    given = parser.parse_args()
    gallery = read_run(given.run).gallery
    if gallery is None:
        raise SystemExit(f"{given.run} has no gallery; run again with gallery: 1 or more")
    show(
        "even positions over odd ones",
        [
            {"method": name, "picture": key, "total": f"{total:,.0f}", "ratio": f"{ratio:.2f}"}
            for name, maps in gallery.heatmaps.items()
            for key, total, ratio in zip(
                gallery.keys,
                maps.sum(dim=(1, 2)).tolist(),
                grid_ratio(maps, given.cells).tolist(),
                strict=True,
            )
        ],
    )


if __name__ == "__main__":
    main()

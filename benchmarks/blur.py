"""The blur of bottlenecks' masks against kornia's, with and without the gradient.

Every step of Per-Sample IBA and InputIBA blurs a mask and takes the gradient through it; this says
why the blur is ours and not kornia's `gaussian_blur2d`. The kernels are the same, so that the
results are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from kornia.filters import gaussian_blur2d
from timing import median_seconds, report
from torch import Tensor

from lit_iba.iba.bottleneck import blur

SHAPES = {
    "mask of conv4_1 or layer2, 4 images": (4, 512, 28, 28),
    "mask of layer1, 4 images": (4, 256, 56, 56),
    "mask of the input, 16 images": (16, 3, 224, 224),
}


def kornias(maps: Tensor, sigma: float) -> Tensor:
    """The same blur by kornia."""
    taps = 2 * round(2 * sigma) + 1
    return gaussian_blur2d(maps, (taps, taps), (sigma, sigma), border_type="reflect")


def main(sigma: float, repeats: int) -> None:
    torch.manual_seed(0)
    lines: list[dict[str, object]] = []
    for name, shape in SHAPES.items():
        maps = torch.rand(shape, requires_grad=True)
        weights = torch.rand(shape)

        def with_gradient(
            method: Callable[[Tensor, float], Tensor],
            maps: Tensor = maps,
            weights: Tensor = weights,
        ) -> Callable[[], Tensor]:
            return lambda: torch.autograd.grad((method(maps, sigma) * weights).sum(), maps)[0]

        def without(
            method: Callable[[Tensor, float], Tensor], maps: Tensor = maps
        ) -> Callable[[], Tensor]:
            return lambda: method(maps.detach(), sigma)

        for kind, prepared in (("with its gradient", with_gradient), ("alone", without)):
            runs = {"ours": prepared(blur), "kornia": prepared(kornias)}
            ours, theirs = (run() for run in runs.values())
            seconds = median_seconds(runs, repeats)
            lines.append(
                {
                    "blur of": name,
                    "": kind,
                    "ms": 1000 * seconds["ours"],
                    "kornia / ours": seconds["kornia"] / seconds["ours"],
                    "largest difference": float((ours - theirs).abs().max()),
                }
            )
    report("blur", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    main(arguments.sigma, arguments.repeats)

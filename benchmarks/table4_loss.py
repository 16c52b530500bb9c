"""Per-Sample IBA with the information that table 4 of IBA was made with, to see what that explains.

The authors' code before the camera-ready paper took 1 - lambda for the variance of Z, which is
(1 - lambda)^2: ln(1 - lambda) counts half. Their masks were optimised with that, too. Run from this
folder's parent with ``--explainers '{"mine": {"explainer": "benchmarks.table4_loss.EarlierLoss",
"layer": "layer2"}}'``; the command and what came of it stand in docs/reproduction/iba.md.
"""

from __future__ import annotations

from torch import Tensor

from lit_iba import PerSampleIBA
from lit_iba.iba.noise import NoiseModel


class EarlierLoss(PerSampleIBA):
    """The bottleneck whose loss is the earlier formula; its bits are of that formula, too."""

    def _information(self, r: Tensor, noise: NoiseModel, keep: Tensor, drop: Tensor) -> Tensor:
        mean = keep * (r - noise.mean) / noise.std
        return 0.5 * (mean.square() + drop - drop.log() - 1) * noise.active

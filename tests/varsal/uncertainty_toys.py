"""A posterior that needs no training: blurred brightness, the less certain the more the picture
varies.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.explainer import Attribution, Explainer


class ToyPosterior(Explainer):
    """Mean and deviation computed from the image alone."""

    name: ClassVar[str] = "toy_posterior"
    signed: ClassVar[bool] = True

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed grey level, and what smoothing removes."""
        grey = images.mean(dim=1, keepdim=True)
        smooth = F.avg_pool2d(grey, 5, stride=1, padding=2)
        return smooth[:, 0], 0.05 + F.avg_pool2d((grey - smooth).abs(), 5, stride=1, padding=2)[
            :, 0
        ]

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """The mean."""
        return Attribution(self.posterior(images)[0])

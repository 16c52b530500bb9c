"""An explainer that is not sure of itself."""

import torch
from torch import Tensor

from lit_iba.explainer import Attribution, Explainer


class Unsure(Explainer):
    """Brightness, with a deviation of its square."""

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        values = images.mean(dim=1)
        return Attribution(values, uncertainty=values**2)

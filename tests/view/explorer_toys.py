"""An explainer that is not sure of itself, and what the server's answers say."""

import base64
import json
from typing import Any

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


def values(shown: dict[str, Any]) -> torch.Tensor:
    """The numbers under the cursor."""
    return torch.frombuffer(bytearray(base64.b64decode(shown["values"])), dtype=torch.float32)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events by kind."""
    parts = [part.split("\n") for part in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data[6:])) for kind, data in parts]

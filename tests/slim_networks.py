"""Torchvision's own networks with a quarter of their channels: the same layers, names, shortcuts
and concatenations, at a sixteenth of the arithmetic.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import nn

WIDE = 16  # what has fewer channels keeps them, as the colours do


@contextmanager
def _narrower(factor: int, classes: int) -> Iterator[None]:
    """Layers that are built here are narrower; the number of classes stays."""

    def less(channels: int) -> int:
        if channels < WIDE or channels == classes:
            return channels
        assert channels % factor == 0, channels
        return channels // factor

    def narrowed(kind: type[nn.Module], counts: int) -> Any:
        init = kind.__init__

        def build(self: nn.Module, *given: Any, **named: Any) -> None:
            names = ("in_channels", "out_channels", "groups")
            if kind is not nn.Conv2d:
                names = ("in_features", "out_features") if kind is nn.Linear else ("num_features",)
            positional = [less(value) for value in given[:counts]] + list(given[counts:])
            changed = {k: less(v) if k in names else v for k, v in named.items()}
            init(self, *positional, **changed)

        return mock.patch.object(kind, "__init__", build)

    with narrowed(nn.Conv2d, 2), narrowed(nn.Linear, 2), narrowed(nn.BatchNorm2d, 1):
        yield


def slim(name: str, num_classes: int = 1000, factor: int = 4, **options: Any) -> nn.Module:
    """A torchvision network by name with random weights, its channels divided by ``factor``; in
    eval mode, and the same at each call.
    """
    if name == "googlenet":
        options = {"init_weights": False, "aux_logits": False} | options
    if name.startswith("vgg"):
        options = {"init_weights": False} | options
    with torch.random.fork_rng(devices=[]), _narrower(factor, num_classes):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, num_classes=num_classes, **options)
    return model.eval()

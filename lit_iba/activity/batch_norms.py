"""Statistics of batch norms, measured again: what a classifier without biases needs, whose features
are no longer those that its norms were trained on.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", supplement B.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.activity.operations import BATCH_NORMS
from lit_iba.classifier import FrozenClassifier

Statistics = dict[str, Tensor]  # running means and variances by their names in the state dict


def batch_norm_count(classifier: FrozenClassifier) -> int:
    """How many batch norms a network has."""
    return sum(isinstance(module, BATCH_NORMS) for module in classifier.model.modules())


@torch.no_grad()
def reestimate_batch_norms(classifier: FrozenClassifier, batches: Iterator[Tensor]) -> Statistics:
    """Running means and variances of every batch norm, measured over batches of images; the
    classifier is not changed.

    As in training, but as a mean over all batches: each norm sees its input with the norms below in
    training mode.
    """
    network = copy.deepcopy(classifier.model)
    modules = {name: m for name, m in network.named_modules() if isinstance(m, BATCH_NORMS)}
    for module in modules.values():
        module.reset_running_stats()
        module.momentum = None  # a cumulative mean
        module.train()
    for images in batches:
        network(images)
    state = network.state_dict()
    return {
        f"{name}.{which}": state[f"{name}.{which}"]
        for name in modules
        for which in ("running_mean", "running_var")
    }


@torch.no_grad()
def unfold_batch_norms(
    classifier: FrozenClassifier, batches: Iterator[Tensor]
) -> tuple[FrozenClassifier, int]:
    """A copy in which norms whose statistics were folded into gamma and beta have statistics again;
    the same function.

    Quantised weights are often published with running mean 0 and running variance 1. To measure
    such a norm again would undo nothing but itself: its statistics are measured over the batches,
    in eval mode, and taken out of gamma and beta first.

    Args:
        classifier: The network; it is not changed.
        batches: Normalised images (B, 3, H, W), as published weights expect them.

    Returns:
        The copy, and how many norms were unfolded.
    """
    made = copy.deepcopy(classifier)
    norms = [
        module
        for module in made.model.modules()
        if isinstance(module, BATCH_NORMS) and _is_folded(module)
    ]
    sums = {
        norm: [torch.zeros(norm.num_features, dtype=torch.float64, device=classifier.device)] * 3
        for norm in norms
    }

    def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)  # (C, B h w)
        new = (x.sum(dim=1), (x * x).sum(dim=1), torch.full_like(x[:, 0], x.shape[1]))
        sums[norm] = [before + one for before, one in zip(sums[norm], new, strict=True)]  # type: ignore[index]

    handles = [norm.register_forward_pre_hook(count) for norm in norms]
    for images in batches if norms else ():
        made(images)
    for handle in handles:
        handle.remove()
    for norm in norms:
        total, squares, number = sums[norm]
        mean = total / number
        variance = (squares / number - mean**2).clamp_min(0)
        gamma = norm.weight.double() / math.sqrt(1 + norm.eps)  # what stands before the input now
        norm.bias.copy_(norm.bias + gamma * mean)
        norm.weight.copy_(gamma * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
    return made, len(norms)


def _is_folded(norm: Any) -> bool:
    statistics = norm.running_mean is not None and bool(
        (norm.running_mean == 0).all() and (norm.running_var == 1).all()
    )
    return statistics and norm.affine

"""Networks without biases: what counts as a bias, how it is scaled away, and the proof that none is
left.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", sections 3, B and
C. Biases are those of convolutions and linear layers, and of a batch norm both beta and the running
mean; gamma and the running variance stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_iba.activity.decomposition import Decomposition
from lit_iba.activity.layers import INPUT, NetworkLayers
from lit_iba.activity.operations import BATCH_NORMS, batch_norm_bias
from lit_iba.classifier import FrozenClassifier
from lit_iba.explainer import completeness_error


def bias_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every bias of a network by its name in the state dict: parameters called bias, and norms'
    running means, with their biases where these are buffers, as in a frozen batch norm.

    The tensors are the network's own: writing into them changes it.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2].endswith("bias"):  # also in_proj_bias of an attention
            found[name] = parameter
    for name, module in network.named_modules():
        buffers = dict(module.named_buffers(prefix=name, recurse=False))
        if f"{name}.running_mean" in buffers:
            found |= {k: v for k, v in buffers.items() if k.endswith((".bias", ".running_mean"))}
    return found


@torch.no_grad()
def scale_biases(network: nn.Module, originals: Mapping[str, Tensor], factor: float) -> None:
    """Set every bias of a network to a factor times its original value, in place.

    Args:
        network: What is changed.
        originals: Values of :func:`bias_tensors` before, on the network's device.
        factor: 0 removes the biases; exactly.
    """
    for name, bias in bias_tensors(network).items():
        bias.copy_(originals[name] * factor if factor else torch.zeros_like(bias))


def without_biases(classifier: FrozenClassifier) -> FrozenClassifier:
    """A copy of a classifier whose biases are set to zero by brute force.

    Example:
        >>> from lit_iba.activity import without_biases
        >>> zero_bias = without_biases(classifier)
        >>> zero_bias(2 * images).allclose(2 * zero_bias(images), atol=1e-4)  # it is homogeneous
        True
    """
    made = copy.deepcopy(classifier)
    made.name = f"{classifier.name} without biases"
    scale_biases(made.model, {}, 0)
    return made


@dataclass(frozen=True)
class ZeroBiasCheck:
    """Whether a network has no bias left, and decomposes accordingly.

    Args:
        largest_bias: Largest absolute value of all biases, and of batch norms' effective ones
            (equation S9).
        offsets: Operations other than biases that add a constant, such as GoogLeNet's input
            transform.
        error: Largest relative error of f_c = sum a_h[l] over the images and the layers above all
            offsets.
        layers: How many layers that was over.

    Example:
        >>> from lit_iba.activity import check_zero_bias, without_biases
        >>> found = check_zero_bias(without_biases(classifier), images)
        >>> found.offsets, found.error < 1e-3
        ([], True)
    """

    largest_bias: float
    offsets: list[str]
    error: float
    layers: int

    def holds(self, tolerance: float = 1e-3) -> bool:
        """Every effective bias is exactly zero, and every layer's attributions add up to the class
        score.
        """
        return self.largest_bias == 0 and self.error <= tolerance


def check_zero_bias(classifier: FrozenClassifier, images: Tensor | None = None) -> ZeroBiasCheck:
    """Look at every bias, and hold f_c = sum a_h[l] against every layer.

    Args:
        classifier: A network that decomposes exactly.
        images: Normalised images (B, 3, H, W); by default two of noise, the identity being one of
            any input.

    Raises:
        InputError: The network cannot be traced.

    Example:
        >>> from lit_iba.activity import check_zero_bias, without_biases
        >>> check_zero_bias(classifier).largest_bias > 0
        True
        >>> check_zero_bias(without_biases(classifier)).largest_bias
        0.0
    """
    layers = NetworkLayers.of(classifier)
    biases = [
        float(value.abs().max())
        for value in bias_tensors(classifier.model).values()
        if value.numel()
    ]
    effective = [
        float(batch_norm_bias(m.weight, m.bias, m.running_mean, m.running_var, m.eps).abs().max())
        for m in classifier.model.modules()
        if isinstance(m, BATCH_NORMS) and m.running_mean is not None and m.running_var is not None
    ]
    if images is None:
        size, generator = classifier.preprocessing.size, torch.Generator().manual_seed(0)
        images = torch.randn(
            2, classifier.channels, *size, generator=generator, dtype=torch.float32
        )
        images = images.to(classifier.device)
    targets = classifier.targets(images)
    shown = [INPUT, *layers.names]
    found = Decomposition(layers, shown, list(layers.bias_nodes)).attribute(images, targets)
    offsets = [name for name, term in found.bias.items() if bool((term.product != 0).any())]
    clear = [name for name in shown if not set(offsets) & set(layers.biases_above(name))]
    errors = [completeness_error(found.activity[name].total, found.score).max() for name in clear]
    error = float(torch.stack(errors).max()) if errors else float("inf")
    return ZeroBiasCheck(max([*biases, *effective], default=0.0), offsets, error, len(clear))

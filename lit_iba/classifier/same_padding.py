"""TensorFlow's "same" padding as a module of its own in front of a convolution.

Networks that were converted from TensorFlow pad by what the size of their input needs, which timm
decides by control flow: such networks can be cut with hooks only, and run whole for every part.
Written as arithmetic on sizes, the same function can be traced.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SamePadding(nn.Module):
    """Zeros around a picture, so that a convolution of stride s gives ceil(size / s) positions.

    Where their number is odd, the last one lies to the right and below, as in TensorFlow.

    Args:
        extent: How far the kernel reaches, (kernel - 1) * dilation + 1, rows and columns; at least
            the stride.
        stride: Of the convolution, rows and columns.

    Example:
        >>> import torch
        >>> from lit_iba.classifier.same_padding import SamePadding
        >>> SamePadding((3, 3), (2, 2))(torch.zeros(1, 8, 112, 112)).shape
        torch.Size([1, 8, 113, 113])
    """

    def __init__(self, extent: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.extent, self.stride = extent, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with its padding."""
        down, across = (
            ((size + stride - 1) // stride - 1) * stride + extent - size
            for size, extent, stride in zip(
                (x.shape[-2], x.shape[-1]), self.extent, self.stride, strict=True
            )
        )
        return F.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2])


def unfold_same_padding(model: nn.Module) -> nn.Module:
    """Replace, in place, every convolution that pads by itself as TensorFlow does by
    :class:`SamePadding` and an ordinary convolution with the same weights.

    Args:
        model: A network of timm (``Conv2dSame``).

    Returns:
        The model.
    """
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module).__name__ == "Conv2dSame" and isinstance(module, nn.Conv2d):
                parent.add_module(name, _unfolded(module))
    return model


def _unfolded(module: nn.Conv2d) -> nn.Module:
    kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), module.dilation
    rows, columns = ((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    plain = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        kernel,
        stride,
        0,
        _pair(dilation),
        module.groups,
        module.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = module.weight, module.bias
    if rows == columns == 1:
        return plain  # a single point needs no padding, whatever the stride
    if rows < stride[0] or columns < stride[1]:
        return module  # what is needed may be negative, and is then nothing: no arithmetic says so
    return nn.Sequential(SamePadding((rows, columns), stride), plain)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second

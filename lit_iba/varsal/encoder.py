"""VarSal's encoder: an image in, mean and log variance of every pixel's attribution out, at the
image's own size.

"Variational saliency maps for explaining model's behavior" (submission to ICLR 2021), appendix C.
Its text counts 17 and 16 layers, its list has 16; the last of them is a plain convolution here,
because both of its outputs have a sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_iba.checks import check_counts
from lit_iba.errors import InputError

PAPER_CHANNELS = (64, 64, 64, 64, 32, 32, 32, 32, 32, 16, 16, 16, 16, 16, 16)
LOG_VARIANCE_LIMIT = 10.0  # standard deviations from e^-5 to e^5; the prior pulls them towards one


def bounded_posterior(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, float32 (B, H, W) each, from a last convolution's two channels (B, 2,
    H, W).
    """
    mean, raw = outputs.float().unbind(dim=1)
    # Smooth, the identity near zero, and with a gradient everywhere: nothing overflows and nothing
    # gets stuck.
    return mean, LOG_VARIANCE_LIMIT * torch.tanh(raw / LOG_VARIANCE_LIMIT)


def raw_for_deviation(deviation: float) -> float:
    """The second channel that :func:`bounded_posterior` turns into this standard deviation.

    Raises:
        InputError: It is not between e^-5 and e^5.
    """
    share = 2 * math.log(deviation) / LOG_VARIANCE_LIMIT if deviation > 0 else math.inf
    if abs(share) >= 1:
        raise InputError(f"initial_deviation is {deviation}; it must lie between e^-5 and e^5")
    return LOG_VARIANCE_LIMIT * math.atanh(share)


class VarSalEncoder(nn.Module):
    """3x3 convolutions with batch norm and ReLU and without pooling; then one with two outputs.

    In training mode an image's result depends on its batch, as batch norm makes it; in eval mode it
    does not.

    Args:
        channels: Output channels of every convolution but the last; the paper's by default.
        image_channels: Of the images.

    Raises:
        InputError: A number of channels below one.

    Example:
        >>> from lit_iba.varsal import VarSalEncoder
        >>> mean, deviation = VarSalEncoder(channels=[8, 8]).eval()(images)
        >>> mean.shape, deviation.shape
        (torch.Size([2, 64, 64]), torch.Size([2, 64, 64]))
    """

    def __init__(self, channels: Sequence[int] = PAPER_CHANNELS, image_channels: int = 3) -> None:
        super().__init__()
        self.channels = tuple(channels)
        check_counts(**{f"channels[{i}]": count for i, count in enumerate(self.channels)})
        layers: list[nn.Module] = []
        inputs = image_channels
        for outputs in self.channels:
            # Batch norm has the bias. In place: batch norm keeps its input for the backward pass,
            # not its output.
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(True),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 2, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Tensor, features: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance, float32 (B, H, W) each, of images (B, C, H, W); features are not
        read.
        """
        return bounded_posterior(self.layers(images.contiguous(memory_format=torch.channels_last)))

    @torch.no_grad()
    def start_near(self, deviation: float) -> None:
        """Shift the last convolution so that standard deviations are about ``deviation`` before
        training.

        Raises:
            InputError: It is not between e^-5 and e^5.
        """
        self.layers[-1].bias[1] = raw_for_deviation(deviation)  # type: ignore[operator]

"""The critics of a Wasserstein GAN over feature maps: one for each of several images, evaluated
together.

Arjovsky et al., "Wasserstein GAN" (2017), and Gulrajani et al., "Improved Training of Wasserstein
GANs" (2017), as InputIBA (Zhang et al., NeurIPS 2021, section 3.3) uses them. Plain torch: how the
critic is trained is its caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU
Scorer = Callable[[Tensor], Tensor]  # samples (S, N, ...) to scores (S, N)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a critic: output channels, and kernel, stride and padding in positions."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class CriticDesign:
    """Layers of a critic, each with a leaky ReLU behind it but for the last, which gives one
    number.

    Args:
        convolutions: First these,
        hidden: then dense layers of these widths, then one to a single number.
        batch_norm: Whether each convolution is followed by batch norm over the samples of its
            image.

    Example:
        >>> from lit_iba.input_iba import CriticDesign
        >>> CriticDesign(convolutions=(), hidden=(32,)).batch_norm
        False
    """

    convolutions: tuple[Convolution, ...]
    hidden: tuple[int, ...] = ()
    batch_norm: bool = False


LINEAR = CriticDesign(())  # one weight per element of the feature map


def published_design(channels: int) -> CriticDesign:
    """The authors' published critic for a feature map of so many channels; 64 million weights at
    VGG-16's conv4_1.
    """
    return CriticDesign(
        (
            Convolution(2 * channels, 4, 2, 1),
            Convolution(4 * channels, 4, 2, 1),
            Convolution(channels, 3, 1, 1),
        ),
        (512, 256),
        batch_norm=True,
    )


class Critic(nn.Module):
    """N critics side by side: grouped convolutions and batched matrix products.

    Args:
        shape: (C, h, w) of the feature maps.
        design: The layers.
        generators: One a critic, from which its weights are drawn; their number is N.

    ``forward`` maps (S, N, C, h, w) to (S, N): sample s of image n is judged by critic n.

    Example:
        >>> import torch
        >>> from lit_iba.input_iba import Critic, CriticDesign
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> critic = Critic((16, 8, 8), CriticDesign(convolutions=(), hidden=(32,)), generators)
        >>> critic(torch.randn(5, 2, 16, 8, 8)).shape  # 5 samples, each judged by its own critic
        torch.Size([5, 2])
    """

    def __init__(
        self, shape: Sequence[int], design: CriticDesign, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        self.design, self.count = design, len(generators)
        channels, height, width = shape
        self.kernels, self.kernel_biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        self.matrices, self.matrix_biases = nn.ParameterList(), nn.ParameterList()

        def drawn(fan_in: int, *sizes: int) -> nn.Parameter:
            """(N, *sizes), uniform within 1 / sqrt(fan_in), as torch's layers."""
            bound = fan_in**-0.5
            each = [
                torch.empty(sizes, device=g.device, dtype=torch.float32).uniform_(
                    -bound, bound, generator=g
                )
                for g in generators
            ]
            return nn.Parameter(torch.stack(each))

        for layer in design.convolutions:
            fan_in = channels * layer.kernel**2
            self.kernels.append(drawn(fan_in, layer.channels, channels, layer.kernel, layer.kernel))
            self.kernel_biases.append(drawn(fan_in, layer.channels))
            if design.batch_norm:
                ones = torch.ones(
                    self.count * layer.channels, device=generators[0].device, dtype=torch.float32
                )
                self.scales.append(nn.Parameter(ones))
                self.shifts.append(nn.Parameter(torch.zeros_like(ones)))
            channels = layer.channels
            height, width = (
                (n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in (height, width)
            )
        inputs = channels * height * width
        for outputs in (*design.hidden, 1):
            self.matrices.append(drawn(inputs, inputs, outputs))
            self.matrix_biases.append(drawn(inputs, 1, outputs))
            inputs = outputs

    def forward(self, features: Tensor) -> Tensor:
        """Scores (S, N) of feature maps (S, N, C, h, w)."""
        x = features.flatten(1, 2)  # (S, N * C, h, w)
        for i, layer in enumerate(self.design.convolutions):
            kernel, bias = self.kernels[i].flatten(0, 1), self.kernel_biases[i].flatten()
            x = F.conv2d(x, kernel, bias, layer.stride, layer.padding, groups=self.count)
            if self.design.batch_norm:
                x = F.batch_norm(x, None, None, self.scales[i], self.shifts[i], training=True)
            x = F.leaky_relu(x, SLOPE)
        y = x.reshape(len(x), self.count, -1).transpose(0, 1)  # (N, S, inputs)
        last = len(self.matrices) - 1
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.matrix_biases, strict=True)):
            y = torch.baddbmm(bias, y, matrix)
            y = y if i == last else F.leaky_relu(y, SLOPE)
        return y[..., 0].transpose(0, 1)


def critic_loss(critic: Scorer, real: Tensor, fake: Tensor) -> Tensor:
    """What a critic minimises: mean score of the fakes minus that of the real samples, for each of
    its N images, (N,).

    Its negative estimates the Wasserstein distance, up to the critic's Lipschitz constant.
    """
    return critic(fake).mean(dim=0) - critic(real).mean(dim=0)


def gradient_penalty(critic: Scorer, real: Tensor, fake: Tensor, between: Tensor) -> Tensor:
    """Mean squared deviation of the critic's gradient norm from 1 at points between real and fake,
    for each image, (N,).

    Args:
        critic: From (S, N, ...) to (S, N).
        real, fake: (S, N, ...).
        between: (S, N) in [0, 1], where on the line from fake to real.
    """
    weight = between[(...,) + (None,) * (real.ndim - 2)]
    points = torch.lerp(fake, real, weight).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradient.flatten(2).norm(dim=2) - 1).square().mean(dim=0)


@torch.no_grad()
def clip_weights(critic: nn.Module, limit: float) -> None:
    """Keep every parameter within [-limit, limit], as the original Wasserstein GAN does."""
    for parameter in critic.parameters():
        parameter.clamp_(-limit, limit)

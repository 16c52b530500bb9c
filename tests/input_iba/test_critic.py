"""Critics side by side are what each would be alone, and what torch's own layers make of the same
weights.
"""

import torch
from torch import Tensor, nn

from lit_iba.input_iba.critic import (
    LINEAR,
    Convolution,
    Critic,
    CriticDesign,
    clip_weights,
    critic_loss,
    gradient_penalty,
    published_design,
)

DESIGNS = [
    LINEAR,
    CriticDesign((Convolution(8, 1), Convolution(8, 3, 2, 1))),
    published_design(4),
    CriticDesign((Convolution(5, 3, 1, 1),), (7, 3), batch_norm=True),
]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def features(samples: int, images: int) -> Tensor:
    return torch.randn(samples, images, 4, 8, 6, generator=torch.Generator().manual_seed(9))


def as_layers(critic: Critic, n: int) -> nn.Sequential:
    """Critic n made of torch's own layers."""
    layers: list[nn.Module] = []
    for i, layer in enumerate(critic.design.convolutions):
        kernel = critic.kernels[i][n]
        convolution = nn.Conv2d(
            kernel.shape[1], layer.channels, layer.kernel, layer.stride, layer.padding
        )
        convolution.weight.data, convolution.bias.data = (
            kernel.data,
            critic.kernel_biases[i][n].data,
        )
        layers.append(convolution)
        if critic.design.batch_norm:
            layers.append(nn.BatchNorm2d(layer.channels))
        layers.append(nn.LeakyReLU(0.2))
    layers.append(nn.Flatten())
    for matrix, bias in zip(critic.matrices, critic.matrix_biases, strict=True):
        dense = nn.Linear(*matrix.shape[1:])
        dense.weight.data, dense.bias.data = matrix[n].data.T, bias[n, 0].data
        layers += [dense, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def test_each_critic_is_a_network_of_its_own() -> None:
    for design in DESIGNS:
        critic = Critic((4, 8, 6), design, generators(1, 2, 3))
        x = features(5, 3)
        scores = critic(x)
        assert scores.shape == (5, 3)
        for n in range(3):
            assert torch.allclose(scores[:, n], as_layers(critic, n)(x[:, n])[:, 0], atol=1e-5)
        alone = Critic((4, 8, 6), design, generators(2))
        assert torch.allclose(scores[:, 1:2], alone(x[:, 1:2]), atol=1e-5)


def test_the_losses_are_the_papers() -> None:
    critic = Critic((4, 8, 6), DESIGNS[1], generators(1, 2))
    real, fake, between = features(5, 2), features(5, 2).flip(0) + 1, torch.rand(5, 2)
    by_image = [critic(fake)[:, n].mean() - critic(real)[:, n].mean() for n in range(2)]
    assert torch.allclose(critic_loss(critic, real, fake), torch.stack(by_image))
    expected = torch.zeros(2)
    for s in range(5):
        for n in range(2):
            point = between[s, n] * real[s, n] + (1 - between[s, n]) * fake[s, n]
            point = point.detach().requires_grad_()
            score = as_layers(critic, n)(point[None])[0, 0]
            (gradient,) = torch.autograd.grad(score, point)
            expected[n] += float((gradient.norm() - 1) ** 2) / 5
    penalty = gradient_penalty(critic, real, fake, between)
    assert torch.allclose(penalty.detach(), expected, rtol=1e-4)
    penalty.sum().backward()
    assert critic.kernels[0].grad is not None
    assert critic.kernels[0].grad.abs().sum() > 0
    clip_weights(critic, 0.01)
    assert max(float(p.detach().abs().max()) for p in critic.parameters()) <= 0.01

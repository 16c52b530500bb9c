"""Small classifiers of several kinds, and readouts on them whose maps vary as those of trained
ones.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.statistics import estimate_layers


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def trained_like(
    classifier: FrozenClassifier, layer: str, taps: list[str], **settings: Any
) -> ReadoutIBA:
    """A readout with statistics, whose maps differ from image to image."""
    images = random_images(32, classifier.preprocessing.crop, seed=1)
    explainer = ReadoutIBA(
        classifier, layer, taps, estimate_layers(classifier, {layer, *taps}, images), **settings
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in explainer.network.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator)
                * 0.5
                / parameter[:1].numel() ** 0.5
            )
        explainer.network.write.bias.sub_(
            4
        )  # lambda near one half, where the information changes most
    return explainer


class Untraceable(nn.Module):
    """Cannot be cut in its graph, for it makes a Python number of a shape; its layers are found
    with hooks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallCNN()

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(int(images.shape[2]) // int(images.shape[3])):
            images = self.net(images)
        return images


def tiny_transformer(kind: str) -> tuple[nn.Module, str, list[str]]:
    torch.manual_seed(0)
    if kind == "vit":
        network: nn.Module = VisionTransformer(
            32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        )
        blocks = [f"encoder.layers.encoder_layer_{i}" for i in (0, 1)]
    else:
        network = SwinTransformer(
            [4, 4], 16, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=5
        )
        blocks = ["features.1", "features.3"]
    return network, blocks[0], blocks

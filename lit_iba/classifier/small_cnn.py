"""A small convolutional classifier for 64-pixel pictures: the quickstart's stand-in for a
torchvision network.
"""

from typing import ClassVar

from torch import Tensor, nn


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallCNN(nn.Module):
    """Three stages of 3x3 convolutions; about 25 million multiply-adds for a 64x64 picture.

    Args:
        num_classes: Number of logits.
        width: Channels of the first convolution; the stages have two, four and six times as many.

    Example:
        >>> import torch
        >>> from lit_iba.classifier import SmallCNN
        >>> SmallCNN(num_classes=5)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    picture_side: ClassVar[int] = 64

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            _block(3, width, stride=2), _block(width, 2 * width, stride=2)
        )  # (B, 32, 16, 16)
        self.layer2 = nn.Sequential(
            _block(2 * width, 4 * width), _block(4 * width, 4 * width)
        )  # (B, 64, 16, 16)
        self.layer3 = nn.Sequential(
            nn.MaxPool2d(2), _block(4 * width, 6 * width), _block(6 * width, 6 * width)
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(6 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(images)))  # (B, 96, 8, 8)
        return self.fc(self.pool(x).flatten(1))

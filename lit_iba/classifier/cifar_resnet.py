"""ResNet-8 for 32-pixel pictures: the network of InputIBA's experiments on CIFAR-10, small enough
to train many times.
"""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


def _stage(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return BasicBlock(inputs, outputs, stride, shortcut)


class ResNet8(nn.Module):
    """A convolution and three residual blocks; about 100 million multiply-adds for a 32x32 picture.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage; the others have two and four times as many.

    Example:
        >>> import torch
        >>> from lit_iba.classifier import ResNet8
        >>> ResNet8(num_classes=10, width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    picture_side: ClassVar[int] = 32

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, 1)  # (B, 64, 32, 32)
        self.layer2 = _stage(width, 2 * width, 2)  # (B, 128, 16, 16)
        self.layer3 = _stage(2 * width, 4 * width, 2)  # (B, 256, 8, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, num_classes)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))

"""A small convolutional classifier for 64-pixel pictures: the quickstart's stand-in for a torchvision network."""

from torch import Tensor, nn


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class SmallCNN(nn.Module):
    """Four stages of 3x3 convolutions; about 25 million multiply-adds for a 64x64 picture.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage; the later ones have two, four and four times as many.
    """

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(_block(3, width), _block(width, width), nn.MaxPool2d(2))  # (B, 16, 32, 32)
        self.layer2 = nn.Sequential(_block(width, 2 * width), _block(2 * width, 2 * width), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(_block(2 * width, 4 * width), _block(4 * width, 4 * width))  # (B, 64, 16, 16)
        self.layer4 = nn.Sequential(nn.MaxPool2d(2), _block(4 * width, 4 * width))  # (B, 64, 8, 8)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, num_classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        return self.fc(self.pool(x).flatten(1))

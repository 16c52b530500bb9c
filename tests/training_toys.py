"""What tests of training modules begin with: a small classifier's weights and a config in a
folder.
"""

import signal
from pathlib import Path
from typing import Any

import lightning as L
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


class SignalAt(L.Callback):
    """Sends this process SIGTERM before it trains a batch, counted over all epochs."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_train_batch_start(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)

"""A classifier that learns the embedded digits in seconds."""

from pathlib import Path

import torch
import torch.nn.functional as F

from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.data import QuickstartDataModule
from lit_iba.data.quickstart import QUICKSTART_PREPROCESSING


def narrow_cnn(num_classes: int = 10) -> SmallCNN:
    """Half as wide as the quickstart's."""
    return SmallCNN(num_classes, width=8)


def train_narrow_cnn(data: QuickstartDataModule, path: Path, epochs: int, steps: int) -> None:
    """Train it, and write its weights; ``steps`` are those of all epochs."""
    torch.manual_seed(0)
    network = narrow_cnn().train()
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    for _ in range(epochs):
        for batch in data.train_dataloader():
            logits = network(QUICKSTART_PREPROCESSING.normalize(batch["picture"]))
            loss = F.cross_entropy(logits, batch["label"], label_smoothing=0.1, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    settings = {"num_classes": 10, "preprocessing": QUICKSTART_PREPROCESSING.to_dict()}
    save_weights(path, network.state_dict(), settings)

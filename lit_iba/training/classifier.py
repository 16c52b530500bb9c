"""Training a small classifier from scratch or fine-tuning one: what the quickstart explains. Not a
method of any paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_iba.classifier import Preprocessing, build_network
from lit_iba.classifier.own_copy import floating_parameter
from lit_iba.classifier.precision import warn_of_slow_bfloat16
from lit_iba.classifier.proof import probe_images, takes_channels_last
from lit_iba.classifier.weights import save_weights
from lit_iba.training.checkpoint import KIND_KEY
from lit_iba.training.labels import check_batch_labels


class _OneCycle(torch.optim.lr_scheduler.OneCycleLR):
    """Stays at its end, where torch's own raises: a run that goes on with fewer processes takes
    more steps than planned.
    """

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch + 1 < self.total_steps:
            super().step(epoch)


@torch.no_grad()
def _order(network: nn.Module, preprocessing: Preprocessing) -> torch.memory_format:
    """The order of memory in which a network is fastest, of those that it takes."""
    like, training = floating_parameter(network), network.training
    images = probe_images(preprocessing.size, like, preprocessing.channels)
    network.eval()
    try:
        side_by_side = takes_channels_last(network, images, network(images.clone()))
    except (RuntimeError, ValueError, TypeError, AssertionError):  # it takes images of another size
        side_by_side = False
    network.train(training)
    return torch.channels_last if side_by_side else torch.contiguous_format


class ClassifierTraining(L.LightningModule):
    """Cross-entropy training with AdamW and a one-cycle schedule.

    Args:
        model: Name of the network, as in ``FrozenClassifier``.
        weights: What to start from: ``"random"``, an enum name, or a file.
        num_classes: Number of classes.
        learning_rate: Peak of the schedule.
        weight_decay: Of AdamW.
        label_smoothing: Of the cross-entropy.
        output: File for the best-so-far weights at the end, ready for ``FrozenClassifier``; None
            writes none.

    Example:
        >>> from lit_iba.training import ClassifierTraining
        >>> training = ClassifierTraining("small_cnn", num_classes=5)
        >>> training(images).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        model: str = "small_cnn",
        weights: str = "random",
        num_classes: int = 10,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        label_smoothing: float = 0.0,
        output: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        network, self.preprocessing, _ = build_network(model, weights, num_classes)
        own = ":" in model  # a network of the user's, which may flatten with ``view``
        self._order = _order(network, self.preprocessing) if own else torch.channels_last
        self.network = network.to(memory_format=self._order)
        self.num_classes, self.output = num_classes, output
        self.learning_rate, self.weight_decay, self.label_smoothing = (
            learning_rate,
            weight_decay,
            label_smoothing,
        )
        self.hits, self.losses = MeanMetric(), MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K)."""
        return self.network(images)

    def setup(self, stage: str) -> None:
        """Give the data module the network's preprocessing, where it has none of its own."""
        if str(self.trainer.precision).startswith("bf16"):
            warn_of_slow_bfloat16(self.trainer.strategy.root_device, "--trainer.precision 32-true")
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and data.preprocessing is None:
            data.preprocessing = self.preprocessing
        elif data is not None:
            self.preprocessing = data.preprocessing

    def _logits(self, pictures: Tensor) -> Tensor:
        return self(self.preprocessing.normalize(pictures).contiguous(memory_format=self._order))

    def check_batch(self, batch: dict[str, Any]) -> None:
        """Refuse labels that are none.

        Raises:
            InputError: A sample has no label, or one that the network does not know.
        """
        check_batch_labels(batch, self.num_classes)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Cross-entropy of one batch; empty slots weigh nothing, and batch normalisation does not
        see them.
        """
        slots = len(batch["weight"])
        full = batch["weight"].nonzero().flatten()
        full = full if len(full) else batch["weight"].new_zeros(1, dtype=torch.int64)
        labels = batch["label"][full].clamp_min(0)  # that of an empty batch, which weighs nothing
        logits = self._logits(batch["picture"][full])
        losses = F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        loss = (losses * batch["weight"][full]).sum() / slots
        self.log("train/cross_entropy", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Loss and hits, weighted by validity."""
        labels, logits = batch["label"].clamp_min(0), self._logits(batch["picture"])
        self.losses.update(F.cross_entropy(logits, labels, reduction="none"), batch["weight"])
        self.hits.update((logits.argmax(dim=1) == labels).float(), batch["weight"])

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracy over all processes."""
        self.log("val/cross_entropy", self.losses.compute(), prog_bar=True)
        self.log("val/accuracy_top1", self.hits.compute(), prog_bar=True)
        self.losses.reset()
        self.hits.reset()

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """Log loss and accuracy over all processes."""
        self.log("test/cross_entropy", self.losses.compute())
        self.log("test/accuracy_top1", self.hits.compute())
        self.losses.reset()
        self.hits.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, one cycle over the whole run."""
        adam = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = _OneCycle(adam, max_lr=self.learning_rate, total_steps=steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the weights with what a FrozenClassifier needs to know beside them."""
        if self.output and self.trainer.is_global_zero:
            names = getattr(self.trainer.datamodule, "class_names", None) or []  # type: ignore[attr-defined]
            fits = len(names) == self.num_classes
            settings: dict[str, Any] = {
                "num_classes": self.num_classes,
                "preprocessing": self.preprocessing.to_dict(),
            }
            save_weights(
                Path(self.output),
                self.network.state_dict(),
                settings | ({"class_names": list(names)} if fits else {}),
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which class wrote the checkpoint."""
        checkpoint[KIND_KEY] = type(self).__name__

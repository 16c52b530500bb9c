"""Heatmaps of a few validation images in TensorBoard, after every validation."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchvision.utils import make_grid

from lit_iba.checks import check_counts
from lit_iba.classifier.preprocessing import drawn
from lit_iba.training.frozen import TrainingWithFrozenClassifier


class HeatmapImages(L.Callback):
    """Logs the first validation images, a row each: the picture, and what the module draws of it
    (overlay and heatmap).

    Works with the modules around a frozen classifier, whose ``forward`` maps images to a Heatmap;
    idle with others.

    Args:
        images: How many.
        tag: Name in TensorBoard.

    Example:
        >>> from lightning import Trainer
        >>> from lit_iba.training import HeatmapImages
        >>> trainer = Trainer(callbacks=[HeatmapImages(images=4)], logger=False)
        >>> any(isinstance(callback, HeatmapImages) for callback in trainer.callbacks)
        True
    """

    def __init__(self, images: int = 8, tag: str = "val/heatmaps") -> None:
        check_counts(0, images=images)
        self.images, self.tag = images, tag
        self._pictures: list[Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first pictures, on the first process."""
        missing = self.images - sum(map(len, self._pictures))
        draws = isinstance(pl_module, TrainingWithFrozenClassifier) and pl_module.draws_heatmaps
        if trainer.is_global_zero and missing > 0 and draws:
            self._pictures.append(batch["picture"][batch["weight"] > 0][:missing])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Explain and log them."""
        pictures, self._pictures = self._pictures, []
        experiment = getattr(trainer.logger, "experiment", None)
        if not pictures or not hasattr(experiment, "add_image"):
            return
        shown = torch.cat(pictures)
        columns = [drawn(picture.cpu()) for picture in (shown, *pl_module.drawings(shown))]
        rows = torch.stack(columns, dim=1).flatten(0, 1)
        grid = make_grid(rows, nrow=len(columns), padding=2)
        experiment.add_image(self.tag, grid, trainer.global_step)  # type: ignore[union-attr]

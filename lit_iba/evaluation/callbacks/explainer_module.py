"""An explainer that nobody trains, as a module that a Trainer can test and predict with."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from torch import nn

from lit_iba.checks import check_literals
from lit_iba.explainer import Explainer
from lit_iba.heatmap import Heatmap


class ExplainerModule(L.LightningModule):
    """Carries any explainer through ``Trainer.predict``, ``test`` and ``validate``.

    Args:
        explainer: It is moved to the Trainer's device with its classifier.
        target: The class to explain: the ``"label"``, or the ``"predicted"`` one.

    Example:
        >>> import torch
        >>> from lit_iba import build_explainer
        >>> from lit_iba.evaluation import ExplainerModule
        >>> module = ExplainerModule(build_explainer("saliency", classifier))
        >>> picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        >>> batch = {"picture": picture, "label": torch.tensor([3]), "key": ["a"]}
        >>> module.predict_step(batch, 0).values.shape
        torch.Size([1, 64, 64])
    """

    def __init__(
        self, explainer: Explainer, target: Literal["label", "predicted"] = "label"
    ) -> None:
        super().__init__()
        check_literals(ExplainerModule.__init__, locals())
        self.explainer, self.classifier, self.target = explainer, explainer.classifier, target
        # Networks of its own move with it.
        own = {name: m for name, m in vars(explainer).items() if isinstance(m, nn.Module)}
        self.networks = nn.ModuleDict({k: m for k, m in own.items() if k != "classifier"})
        self.eval().requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Give the data module the classifier's preprocessing, where it has none of its own."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and getattr(data, "preprocessing", None) is None:
            data.preprocessing = self.classifier.preprocessing

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> Heatmap | None:
        """Heatmaps of a batch of pictures; None where it holds none.

        Raises:
            InputError: A label is wanted and missing.
        """
        if not len(batch["key"]):
            return None
        # Explainers take gradients, which tensors that are born in inference mode cannot.
        with torch.inference_mode(False), torch.enable_grad():
            images = self.classifier.images(batch["picture"].clone())
            target = batch["label"].clone() if self.target == "label" else None
            target = batch["target"].clone() if "target" in batch else target
            if target is not None:
                target = target.to(images.device)
            return self.explainer.attribute(images, target, keys=batch["key"])

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Nothing: callbacks judge."""

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Nothing: callbacks judge."""

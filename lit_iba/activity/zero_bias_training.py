"""Zero-bias decay: training a classifier to do without its biases what it did with them.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", sections 3 and C: a
copy of the network is fine-tuned to the original's outputs at a high temperature while the callback
``BiasDecay`` scales its biases down.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_iba.activity.operations import BATCH_NORMS
from lit_iba.activity.zero_bias import bias_tensors, check_zero_bias, scale_biases
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import save_weights
from lit_iba.errors import InputError
from lit_iba.objectives.classes import needs_classes
from lit_iba.training.frozen import TrainingWithFrozenClassifier

_SCORES = ("loss", "accuracy_top1", "accuracy_top5", "original_accuracy_top1", "agreement")


def _labelled(batch: dict[str, Any]) -> Tensor:
    """Weights (B,) that are 0 where there is no label."""
    weight: Tensor = batch["weight"] * (batch["label"] >= 0)
    return weight


class ZeroBiasTraining(TrainingWithFrozenClassifier):
    """Distils a classifier into a copy of itself; without ``BiasDecay`` the copy keeps its biases.

    Trained are the weights of convolutions and linear layers. Biases and running means follow the
    decay; gamma and running variances stay. The copy runs in eval mode: batch norms keep their
    statistics and nothing is dropped, as in the original.

    Args:
        classifier: Keyword arguments of ``FrozenClassifier``: the original, which is the teacher.
        temperature: Of both networks' outputs in the loss, 100 in the paper.
        output: File for the weights at the end, ``.safetensors``, ready for the same model; None
            writes none.
        optimizer: Called with the trained parameters; Adam with learning rate 5e-6 in the paper.

    Raises:
        InputError: The temperature is not positive, or the output has another suffix.

    Example:
        >>> from lit_iba.activity import ZeroBiasTraining
        >>> training = ZeroBiasTraining({"model": "small_cnn", "weights": "random"})
        >>> training(images).shape
        torch.Size([2, 10])
    """

    draws_heatmaps: ClassVar[bool] = False
    headline: ClassVar[str] = "accuracy_top1"

    def __init__(
        self,
        classifier: dict[str, Any],
        temperature: float = 100.0,
        output: str | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=5e-6),
    ) -> None:
        super().__init__(classifier)
        needs_classes(self.classifier.objective, "zero-bias training", "a classifier")
        if temperature <= 0:
            raise InputError(f"temperature is {temperature}; it must be positive, 100 in the paper")
        if output is not None and not output.endswith(".safetensors"):
            raise InputError(f"output is {output!r}; its name must end with .safetensors")
        self.save_hyperparameters(
            {"classifier": classifier, "temperature": temperature, "output": output}
        )
        self.temperature, self.output, self.optimizer = temperature, output, optimizer
        self.network = copy.deepcopy(self.classifier.model)
        fixed = {id(bias) for bias in bias_tensors(self.network).values()}
        for module in self.network.modules():
            if isinstance(module, BATCH_NORMS):
                fixed |= {id(parameter) for parameter in module.parameters()}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) not in fixed)
        self.scores = nn.ModuleDict({name: MeanMetric() for name in _SCORES})

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the copy's logits (B, K)."""
        return self.network(images)

    def train(self, mode: bool = True) -> ZeroBiasTraining:
        """The networks stay in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def set_bias_share(self, share: float) -> None:
        """Set the copy's biases to a share of the original's."""
        scale_biases(self.network, bias_tensors(self.classifier.model), share)

    def _step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Loss, hits and agreement, each (B,)."""
        images = self.images_of(batch)
        with torch.no_grad():
            original = self.classifier(images).float()
        logits = self(images).float()
        labels = batch["label"]
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        return {
            "loss": distillation_loss(logits, original, self.temperature),
            "accuracy_top1": (best[:, 0] == labels).float(),
            "accuracy_top5": (best == labels[:, None]).any(dim=1).float(),
            "original_accuracy_top1": (original.argmax(dim=1) == labels).float(),
            "agreement": (best[:, 0] == original.argmax(dim=1)).float(),
        }

    def check_batch(self, batch: dict[str, Any]) -> None:
        """Look at the labels that a batch has, where accuracies are of them; errors as of
        :meth:`check_labels`.
        """
        if not self.training:
            self.check_labels({**batch, "weight": _labelled(batch)})

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step towards the original's outputs; empty slots weigh nothing."""
        step, weight = self._step(batch), batch["weight"]
        loss = (step["loss"] * weight).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(weight))
        self.log(
            "train/agreement",
            (step["agreement"] * weight).mean(),
            prog_bar=True,
            batch_size=len(weight),
        )
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Scores of the copy as it is now, weighted by validity; accuracies are of those pictures
        that have a label, and no number where none has.
        """
        step, weight = self._step(batch), batch["weight"]
        labelled = _labelled(batch)
        for name, metric in self.scores.items():
            metric.update(step[name], labelled if "accuracy" in name else weight)  # type: ignore[operator]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the weights."""
        return self.optimizer(p for p in self.network.parameters() if p.requires_grad)

    def on_fit_start(self) -> None:
        """Check the disk."""
        self.check_disk()

    def on_fit_end(self) -> None:
        """Write the weights as an ordinary state dict, with the check that no bias is left beside
        them.
        """
        if not self.trainer.is_global_zero:
            return
        original = self.classifier
        copied = FrozenClassifier(
            copy.deepcopy(self.network),
            preprocessing=original.preprocessing,
            class_names=original.class_names,
        )
        check = check_zero_bias(copied)
        rank_zero_info(
            f"largest bias {check.largest_bias:.3g}; f_c = sum a_h[l] over {check.layers} layers to"
            f" {check.error:.1e}"
            + (
                ""
                if check.holds()
                else ": this is no zero-bias network; train on to the end of the decay"
            )
        )
        if self.output:
            settings = {
                "num_classes": original.num_classes,
                "preprocessing": original.preprocessing.to_dict(),
                "class_names": original.class_names,
                "zero_bias": asdict(check) | {"holds": check.holds()},
            }
            save_weights(Path(self.output), self.network.state_dict(), settings)


def distillation_loss(logits: Tensor, original: Tensor, temperature: float) -> Tensor:
    """Cross-entropy to the original's outputs at a temperature (Hinton et al. 2015), less its
    minimum, times T squared.

    The minimum, the original's own entropy, has no gradient, and without it the loss is zero where
    the outputs are the same. T squared keeps gradients at the size that they have at T = 1, where
    Adam's epsilon does not count.

    Args:
        logits: (B, K) of the network that is trained.
        original: (B, K) of the one that it is to follow.
        temperature: T > 0.

    Returns:
        (B,) nats times T squared, >= 0 to rounding.
    """
    ours, theirs = (F.log_softmax(values / temperature, dim=1) for values in (logits, original))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1) * temperature**2

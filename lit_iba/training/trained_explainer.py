"""Explainers that are trained: how each is built from the checkpoint that its training module wrote."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import load_into
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer, Surroundings
from lit_iba.training.checkpoint import CLASSIFIER_KEY, classifier_of, read_checkpoint


class TrainedExplainer(Explainer):
    """An explainer with a trained network, loaded from a checkpoint.

    Attributes:
        training: Name of the training module whose checkpoints it takes.
        config: The config that trains one, for the message where no checkpoint is given.
    """

    training: ClassVar[str]
    config: ClassVar[str] = "configs/train/..."

    @classmethod
    def from_settings(
        cls, classifier: FrozenClassifier, settings: dict[str, Any], surroundings: Surroundings | None = None
    ) -> Self:
        """Build from a config: ``checkpoint`` is the file that training wrote."""
        if "checkpoint" not in settings:
            raise InputError(
                f"{cls.name} needs a checkpoint; train one with: python train.py fit --config {cls.config}"
            )
        settings = dict(settings)
        return cls.load(settings.pop("checkpoint"), classifier, **settings)

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any) -> Self:
        """A trained explainer from a checkpoint of its training module.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own record where None.
            settings: Of the explainer, where they are to differ from training's.

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another classifier.
        """

    @classmethod
    def read(cls, path: str | Path, classifier: FrozenClassifier | None) -> tuple[dict[str, Any], FrozenClassifier]:
        """A checkpoint of the training module and the classifier that it was trained for; see :meth:`load`."""
        checkpoint = read_checkpoint(path, cls.training)
        if classifier is None:
            return checkpoint, classifier_of(checkpoint, path)
        classifier.check_identity(checkpoint[CLASSIFIER_KEY], f"checkpoint {path}")
        return checkpoint, classifier


def load_trained(network: nn.Module, state: dict[str, Tensor], prefix: str, source: str) -> None:
    """Load ``network`` with what stands under ``prefix`` in a state dict, and freeze it in eval mode.

    Raises:
        InputError: The tensors do not fit; ``source`` says where they come from.
    """
    load_into(network, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, source)
    network.eval().requires_grad_(False)

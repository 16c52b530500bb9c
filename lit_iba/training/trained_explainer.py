"""Explainers that are trained: how each is built from its checkpoint, and what an exported program
of it computes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import fingerprint, load_into
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer, Surroundings
from lit_iba.training.checkpoint import CLASSIFIER_KEY, classifier_of, entries_of, read_checkpoint
from lit_iba.training.exported import (
    classifier_of_export,
    hash_of_explainer,
    is_export,
    read_exported,
)
from lit_iba.training.shipped import shipped, shipped_classifiers, shipped_hashes

# By the name of the training module that writes their checkpoints.
TRAINED_EXPLAINERS: dict[str, str] = {
    "ReadoutTraining": "lit_iba.iba.ReadoutIBA",
    "MaskingTraining": "lit_iba.baselines.RealTimeSaliency",
    "VarSalTraining": "lit_iba.varsal.VarSal",
    "InputIBATraining": "lit_iba.input_iba.ReadoutInputIBA",
}


@dataclass(frozen=True)
class Output:
    """One result of an exported program, (B, H, W).

    Args:
        name: What onnxruntime calls it.
        unit: Unit of its values.
        meaning: One sentence for whoever has nothing but the file.

    Example:
        >>> from lit_iba import ReadoutIBA
        >>> [(output.name, output.unit) for output in ReadoutIBA.outputs]
        [('heatmap', 'bits')]
    """

    name: str
    unit: str
    meaning: str


class TrainedExplainer(Explainer):
    """An explainer with a trained network: it comes from a checkpoint, and knows how it is
    exported.

    Attributes:
        training: Name of the training module whose checkpoints it takes.
        config: The config that trains one, for the message where no checkpoint is given.
        changeable: Settings that may differ from training's; the others are what was trained.
        outputs: What an exported program returns, in order; a single one is returned as a tensor,
            several as a tuple.
        trained_with: What decided the training, such as beta, where the checkpoint says it; plain
            values, which a benchmark keeps for its report.

    Example:
        >>> from lit_iba import ReadoutIBA
        >>> from lit_iba.training import TrainedExplainer
        >>> explainer = ReadoutIBA.load("runs/readout/last.ckpt")
        >>> isinstance(explainer, TrainedExplainer), explainer.training
        (True, 'ReadoutTraining')
    """

    training: ClassVar[str]
    config: ClassVar[str]
    config_only: ClassVar[tuple[str, ...] | None] = ("checkpoint",)
    changeable: ClassVar[tuple[str, ...]] = ("seed",)
    outputs: ClassVar[tuple[Output, ...]]
    trained_with: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, classifier: FrozenClassifier, *, seed: int = 0) -> None:
        super().__init__(classifier, seed=seed)
        self._trained_for = classifier.identity["sha256"], classifier.dtype

    def _keep_up(self) -> None:
        """What was trained cannot be made again: other weights are refused."""
        version = self.classifier.look_at_weights()
        known, dtype = self._trained_for
        same_kind = version != self._made_of and self.classifier.dtype == dtype
        if same_kind and self.classifier.identity["sha256"] != known:
            raise InputError(
                f"the weights of {self.classifier.name} have changed since {type(self).__name__} "
                "was trained for them; load both again, or train again"
            )
        self._made_of = version

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The trained network, statistics included: what ``.safetensors`` holds."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Plain values that make the explainer again, with the classifier and the network's
        tensors; see :meth:`rebuild`.
        """

    @classmethod
    @abstractmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> Self:
        """The explainer of a :attr:`record`, which JSON may have carried, with its network still
        untrained.
        """

    @abstractmethod
    def program_modules(self) -> dict[str, nn.Module]:
        """Modules by name that hold everything :meth:`program` uses, and little else."""

    @abstractmethod
    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for images (B, 3, H, W), by code that can be traced."""

    def program_expected(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same through the public interface: what an exported :meth:`program` is measured
        against.
        """
        return (self.attribute(images).values,)

    @classmethod
    def rebuild(
        cls,
        classifier: FrozenClassifier,
        record: dict[str, Any],
        state: dict[str, Tensor],
        source: str,
    ) -> Self:
        """The explainer again, from its record and the tensors of its network.

        Raises:
            InputError: They do not fit; ``source`` says where they come from.
        """
        explainer = cls.from_record(classifier, record)
        load_trained(explainer.trained, state, "", source)
        return explainer

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> Self:
        """Build from a config: ``checkpoint`` is the file that training wrote, or an export;
        without one it is what comes with the package for this classifier.
        """
        settings = dict(settings)
        path = settings.pop("checkpoint", None) or shipped(cls.name, classifier)
        if path is None:
            known = ", ".join(shipped_classifiers(cls.name))
            raise InputError(
                f"{cls.name} needs a checkpoint; train one with: python train.py fit --config"
                f" {cls.config}"
                + (f" (trained ones come with the package for {known})" if known else "")
            )
        made = cls.of_export if is_export(path) else cls.load
        return made(path, classifier, **settings)

    @classmethod
    def content(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """Of an export, what its maps follow from; without a checkpoint, of those that come with
        the package.
        """
        path = settings.get("checkpoint")
        if path is None:
            return shipped_hashes(cls.name)
        if not isinstance(path, str | Path) or not Path(path).exists() or not is_export(path):
            return {}
        return {"checkpoint": hash_of_explainer(read_exported(path)[0])}

    @classmethod
    def pretrained(cls, classifier: FrozenClassifier, **settings: Any) -> Self:
        """The trained explainer that comes with the package for a classifier.

        Args:
            classifier: One that such an explainer comes for, such as ``efficientnet_lite0``.
            settings: Of the explainer, where they are to differ from training's.

        Raises:
            InputError: None comes for it, or there is no such setting.
        """
        return cls.from_settings(classifier, settings)

    @classmethod
    def of_export(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> Self:
        """A trained explainer from the ``.safetensors`` of an export.

        Args:
            path: The export's folder, or its ``explainer.safetensors``.
            classifier: The classifier that it was trained for; built from the export's own record
                where None.
            settings: Of the explainer, where they are to differ from training's.

        Raises:
            InputError: The file is missing, damaged, changed or of another explainer, the
                classifier is another one, or there is no such setting.
        """
        description, state = read_exported(path)
        facts = description["explainer"]
        if facts["name"] != cls.name:
            raise InputError(f"{path} holds an explainer {facts['name']!r}, not {cls.name!r}")
        if fixed := settings.keys() - set(cls.changeable):
            raise InputError(
                f"{path} does not take {', '.join(sorted(fixed))}, for it is trained; it takes"
                f" {', '.join(cls.changeable)}"
            )
        classifier = classifier_of_export(description, path, classifier)
        with entries_of(path, what="export"):
            explainer = cls.rebuild(classifier, facts["settings"] | settings, state, str(path))
        if fingerprint(explainer.trained) != facts["sha256"]:
            raise InputError(
                f"the tensors in {path} are not those that were exported (their sha256 differs);"
                " export it again"
            )
        return explainer

    @classmethod
    @abstractmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> Self:
        """A trained explainer from a checkpoint of its training module.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: Of the explainer, where they are to differ from training's.

        Raises:
            InputError: The file is missing, damaged, of another class, or was trained for another
                classifier.
        """

    @classmethod
    def read(
        cls, path: str | Path, classifier: FrozenClassifier | None
    ) -> tuple[dict[str, Any], FrozenClassifier]:
        """A checkpoint of the training module and the classifier that it was trained for; see
        :meth:`load`.
        """
        checkpoint = read_checkpoint(path, cls.training)
        if classifier is None:
            return checkpoint, classifier_of(checkpoint, path)
        with entries_of(path):
            classifier.check_identity(checkpoint[CLASSIFIER_KEY], f"checkpoint {path}")
        return checkpoint, classifier


def single(values: Tensor) -> Tensor:
    """What a trained network, whose weights are float32, reads of a classifier in float64."""
    return values.float() if values.dtype == torch.float64 else values


def load_trained(network: nn.Module, state: dict[str, Tensor], prefix: str, source: str) -> None:
    """Load ``network`` with what stands under ``prefix`` in a state dict, and freeze it in eval
    mode.

    Raises:
        InputError: The tensors do not fit; ``source`` says where they come from.
    """
    load_into(
        network,
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)},
        source,
    )
    network.eval().requires_grad_(False)

"""What is asked of a network: the interface of every objective, and the registry of their names.

An objective turns a network's outputs into one number per image, twice: a *score*, of which
gradients and drops are taken, and a *loss* in nats, which the bottlenecks keep small. Everything
else follows from the two. Targets say what is asked about each image; what they are is the
objective's own affair, as long as their first dimension counts the images.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor

from lit_iba.checks import check_taken
from lit_iba.errors import InputError
from lit_iba.registry import class_named


class Objective(ABC):
    """What is asked of a network.

    Subclasses write :meth:`check_outputs`, :meth:`check_targets`, :meth:`predicted`, :meth:`score`
    and :meth:`loss`. Each of the last two gives every image its own number, whatever else is in the
    batch.

    Attributes:
        linear: Whether the score is a linear function of the outputs, which propagation rules ask
            for.
        link: What makes probabilities of the outputs, ``"softmax"`` over their dimension 1 or
            ``"sigmoid"``; empty where they are no logits.
        score_is: What the score is, for definitions.
        probability_is: What :meth:`probability` is, likewise.
        divergence_is: What :meth:`divergence` is, likewise.
        decision_is: What :meth:`decision` is, likewise.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Objective, build_objective
        >>> objective = build_objective("multilabel")
        >>> isinstance(objective, Objective), objective.score_is
        (True, "the target's logit, with the target's sign")
        >>> outputs, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([1])
        >>> objective.score(outputs, targets), objective.probability(outputs, targets)
        (tensor([2.]), tensor([0.8808]))
    """

    name: ClassVar[str] = ""
    linear: ClassVar[bool] = False
    link: ClassVar[str] = ""
    score_is: ClassVar[str] = "the objective's score"
    probability_is: ClassVar[str] = "exp(-loss) of the target"
    divergence_is: ClassVar[str] = "the loss, in nats, of keeping what the image's outputs say"
    decision_is: ClassVar[str] = "whether exp(-loss) of the target is 1/2 or more"

    @property
    def settings(self) -> dict[str, Any]:
        """What its numbers depend on, as plain values."""
        return {}

    @property
    def code(self) -> list[Any]:
        """Classes and functions that its numbers are computed by."""
        return [type(self)]

    @property
    def record(self) -> dict[str, Any]:
        """Name and settings: what stored results depend on."""
        return {"name": self.name or type(self).__name__, **self.settings}

    @abstractmethod
    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """How many classes a target can name, 0 where targets name none.

        Args:
            shape: Of the outputs for a batch, (B, ...).
            network: What it is called in errors.

        Raises:
            InputError: Such outputs are for another objective, which is named.
        """

    @abstractmethod
    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """What the user gave as targets, as a tensor (count, ...).

        Args:
            target: Of every image, or one for all.
            count: Number of images.
            classes: What :meth:`check_outputs` gave.
            outputs: Computes the network's outputs for the images as they are, where they are
                needed to understand the target.

        Raises:
            InputError: They are none.
        """

    def of_labels(self, labels: Tensor) -> Tensor:
        """Targets that a data set's labels stand for, int64 (B,) to (B, ...).

        Raises:
            InputError: A label of the whole image is no target.
        """
        raise InputError(
            f"a data set's labels are no targets of the objective {self.record['name']!r}; use "
            "target: predicted"
        )

    @abstractmethod
    def predicted(self, outputs: Tensor) -> Tensor:
        """Targets (B, ...) that say what the network itself says."""

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What gradients are of, and what falls when something is taken away, (B,)."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far the outputs are from the targets, in nats, at least 0, (B,)."""

    def probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What metrics watch as pixels come and go: exp(-loss), in [0, 1], (B,)."""
        return (-self.loss(outputs.float(), targets)).exp()

    def highest(self, outputs: Tensor) -> Tensor:
        """The highest probability that any target could have, (B,)."""
        return self.probability(outputs, self.predicted(outputs))

    def log_odds(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log p - log(1 - p) of :meth:`probability`, (B,), finite."""
        loss = self.loss(outputs, targets)
        return -loss - (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny).log()

    def alternatives(self, classes: int) -> int:
        """Among how many answers a probability of 1 is shared."""
        return 2

    def reference(self, outputs: Tensor) -> Tensor:
        """What :meth:`divergence` needs to know of outputs that others are compared with."""
        return outputs

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """How far outputs are from those behind a :meth:`reference`, in nats, (B,)."""
        return self.loss(outputs, self.predicted(reference))

    def decision(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the network decides, as a number, int64 (B,): a flip changes it."""
        return (self.loss(outputs, targets) <= math.log(2)).long()

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """One image's target in words."""
        return ", ".join(f"{float(value):.4g}" for value in target.flatten()[:4])


OBJECTIVES: dict[str, str] = {
    "classification": "lit_iba.objectives.Classification",
    "multilabel": "lit_iba.objectives.Multilabel",
    "regression": "lit_iba.objectives.Regression",
    "segmentation": "lit_iba.objectives.Segmentation",
    "embedding": "lit_iba.objectives.Embedding",
    "similarity": "lit_iba.objectives.Similarity",
    "custom": "lit_iba.objectives.Custom",
}


def named_settings(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """Name and settings of an objective as one mapping; a command line may give it as YAML,
    ``"{name: regression, tolerance: 5}"``.

    Raises:
        InputError: It is no mapping.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str):
        raise InputError(f"the objective is {given!r}; give a name, or its name and settings")
    if not given.lstrip().startswith("{"):
        return {"name": given}
    try:
        found = yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise InputError(f"the objective {given!r} is no YAML ({error})") from error
    return {str(name): value for name, value in found.items()}


def build_objective(given: str | Mapping[str, Any] | Objective) -> Objective:
    """An objective by name.

    Args:
        given: A key of ``OBJECTIVES`` or a dotted class path, or ``{"name": ..., ...}`` with its
            settings, or an objective, which is given back.

    Raises:
        InputError: Unknown name, or settings that do not fit.

    Example:
        >>> from lit_iba.objectives import build_objective
        >>> build_objective({"name": "regression", "tolerance": 5.0}).record
        {'name': 'regression', 'tolerance': 5.0, 'index': 0}
    """
    if isinstance(given, Objective):
        return given
    settings = named_settings(given)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise InputError(
            f"the objective is {given!r}; give a name ({', '.join(OBJECTIVES)}), or its name and "
            "settings as {'name': ..., ...}"
        )
    cls = class_named(name, "objective", OBJECTIVES, Objective)  # type: ignore[type-abstract] # only to compare with
    check_taken(cls.__init__, settings, f"the objective {name}")
    try:
        return cls(**settings)
    except TypeError as error:
        raise InputError(
            f"the settings {settings} do not fit the objective {name!r}: {error}"
        ) from error


def repeat_targets(targets: Tensor, copies: int) -> Tensor:
    """Targets for ``copies`` times the batch, copy after copy, (copies * B, ...)."""
    return targets.repeat(copies, *[1] * (targets.ndim - 1))


def as_tensor(target: Any, what: str) -> Tensor:
    """What the user gave, as a detached tensor.

    Raises:
        InputError: It is no array of numbers; ``what`` says what it should be.
    """
    try:
        given = torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"target is {target!r}; it must be {what}") from error
    if given.is_complex():
        raise InputError(f"target is {given.dtype}; it must be {what}")
    return given.clone() if given.is_inference() else given


def one_per_image(given: Tensor, count: int, what: str) -> Tensor:
    """Targets (count, ...), of which one may have been given for all.

    Raises:
        InputError: They are neither one nor as many as the images.
    """
    if given.ndim and len(given) == count:
        return given
    if given.ndim == 0 or len(given) == 1:
        return given.reshape(1, *given.shape[1:]).expand(count, *given.shape[1:])
    raise InputError(
        f"{len(given)} targets were given for {count} images; give one target per image, {what}"
    )

"""Objectives about classes: which one among all (classification), and each for itself
(multilabel).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_targets
from lit_iba.errors import InputError
from lit_iba.objectives.base import Objective

MULTILABEL = "objective='multilabel' for labels that are there or not, each by its own logit"
REGRESSION = "objective={'name': 'regression', 'tolerance': ...} for numbers"
SEGMENTATION = "objective='segmentation' for a class at every pixel"


class Classification(Objective):
    """One class among all: outputs (B, K) are logits whose softmax says how probable each is.

    Targets are classes, int64 (B,).

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Classification
        >>> outputs = torch.tensor([[0.0, 2.0, 0.0]])
        >>> Classification().predicted(outputs)
        tensor([1])
        >>> Classification().probability(outputs, torch.tensor([1]))
        tensor([0.7870])
    """

    name: ClassVar[str] = "classification"
    linear: ClassVar[bool] = True
    link: ClassVar[str] = "softmax"
    score_is: ClassVar[str] = "the target's logit"
    probability_is: ClassVar[str] = "softmax probability of the target"
    divergence_is: ClassVar[str] = "KL divergence in nats between the softmax outputs"
    decision_is: ClassVar[str] = "argmax"

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """K, of outputs (B, K)."""
        if len(shape) == 2 and shape[1] > 1:
            return shape[1]
        if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
            raise InputError(
                f"{network} has one output, whose share among the classes is 1 whatever the image "
                "shows; say what it means: objective='multilabel' for the logit of a yes-or-no "
                f"question, {REGRESSION}"
            )
        raise InputError(
            f"{network} must map images to logits (B, K), but gives {tuple(shape)}; say what that "
            f"means ({SEGMENTATION}, or a custom objective), or wrap it"
        )

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Classes, int64 (count,)."""
        return check_targets(target, count, classes)

    def of_labels(self, labels: Tensor) -> Tensor:
        """The labels themselves."""
        return labels

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class of the highest logit."""
        return outputs.argmax(dim=1)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The target's logit."""
        return outputs.gather(1, targets[:, None])[:, 0]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def probability(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The target's softmax probability."""
        return self.score(outputs.float().softmax(dim=1), targets)

    def highest(self, outputs: Tensor) -> Tensor:
        """The highest softmax probability."""
        return outputs.float().softmax(dim=1).amax(dim=1)

    def log_odds(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Without rounding where p is near 1."""
        others = outputs.scatter(1, targets[:, None], -torch.inf)
        return self.score(outputs, targets) - others.logsumexp(dim=1)

    def alternatives(self, classes: int) -> int:
        """All classes."""
        return classes

    def reference(self, outputs: Tensor) -> Tensor:
        """Log-probabilities (B, K)."""
        return outputs.log_softmax(dim=1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """KL divergence from the softmax behind the reference."""
        return (reference.exp() * (reference - outputs.log_softmax(dim=1))).sum(dim=1)

    def decision(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The class of the highest logit, whatever the target."""
        return outputs.argmax(dim=1)

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The class's name."""
        return class_names[int(target)]


class Multilabel(Objective):
    """Labels that are there or not, each for itself: outputs (B, K), K of 1 or more, are logits
    whose sigmoid says how probable each label is.

    A target asks about one label, int64 (B,): ``k`` in 0..K-1 says that label k is there, and
    ``K + k`` that it is absent (:meth:`absent`). By default it is the label of the highest logit,
    there or absent as the network decides.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Multilabel
        >>> objective, outputs = Multilabel(), torch.tensor([[-3.0, 1.0], [-2.0, -1.0]])
        >>> objective.predicted(outputs)  # label 1 is there; label 1 is absent
        tensor([1, 3])
        >>> objective.score(outputs, torch.tensor([1, 3]))
        tensor([1., 1.])
        >>> objective.absent(1, labels=2)
        3
    """

    name: ClassVar[str] = "multilabel"
    linear: ClassVar[bool] = True
    link: ClassVar[str] = "sigmoid"
    score_is: ClassVar[str] = "the target's logit, with the target's sign"
    probability_is: ClassVar[str] = "sigmoid probability of what the target says of its label"
    divergence_is: ClassVar[str] = (
        "sum over labels of the KL divergence in nats between the sigmoid outputs"
    )
    decision_is: ClassVar[str] = "whether the target's label is there"

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """K, of outputs (B, K) or (B,)."""
        if len(shape) in (1, 2):
            return shape[1] if len(shape) == 2 else 1
        raise InputError(
            f"{network} must map images to one logit per label, (B, K), for the objective "
            f"'multilabel', but gives {tuple(shape)}; give {SEGMENTATION}, or a custom objective"
        )

    @staticmethod
    def absent(label: int, labels: int) -> int:
        """The target that says that one of so many labels is absent."""
        return labels + label

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Labels that are there (0..K-1) or absent (K..2K-1), int64 (count,)."""
        try:
            return check_targets(target, count, 2 * classes)
        except InputError as error:
            if "out of range" not in str(error):
                raise
            raise InputError(
                f"target {target} is out of range; the network has labels 0..{classes - 1}, and "
                f"{classes}..{2 * classes - 1} say that these are absent"
            ) from error

    def of_labels(self, labels: Tensor) -> Tensor:
        """Each says that it is there."""
        return labels

    def predicted(self, outputs: Tensor) -> Tensor:
        """The label of the highest logit, as the network decides it."""
        outputs = _columns(outputs)
        highest, label = outputs.max(dim=1)
        return torch.where(highest > 0, label, label + outputs.shape[1])

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The label's logit, negative where the target says that it is absent."""
        outputs = _columns(outputs)
        labels = outputs.shape[1]
        logit = outputs.gather(1, (targets % labels)[:, None])[:, 0]
        return torch.where(targets < labels, logit, -logit)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of what the target says."""
        return F.softplus(-self.score(outputs, targets))

    def highest(self, outputs: Tensor) -> Tensor:
        """Of the network's surest decision."""
        return _columns(outputs).float().abs().amax(dim=1).sigmoid()

    def log_odds(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The score itself."""
        return self.score(outputs, targets)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """KL divergence of Bernoulli variables, summed over labels."""
        found, wanted = _columns(outputs), _columns(reference)
        there = wanted.sigmoid() * (F.logsigmoid(wanted) - F.logsigmoid(found))
        absent = (-wanted).sigmoid() * (F.logsigmoid(-wanted) - F.logsigmoid(-found))
        return (there + absent).sum(dim=1)

    def decision(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 where the network agrees with the target."""
        return (self.score(outputs, targets) > 0).long()

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The label's name."""
        number = int(target)
        if number < len(class_names):
            return class_names[number]
        return f"no {class_names[number - len(class_names)]}"


def needs_classes(
    objective: Objective,
    what: str,
    instead: str,
    why: str = "compares the target with other classes",
) -> None:
    """Refuse what needs classes where the objective has none.

    Raises:
        InputError: It has none; ``what`` asks for them, as ``why`` says, and ``instead`` does not.
    """
    if not isinstance(objective, Classification):
        name = objective.record["name"]
        raise InputError(f"{what} {why}, which the objective {name!r} does not have; use {instead}")


def _columns(outputs: Tensor) -> Tensor:
    """(B, K); a single label may come as (B,)."""
    return outputs[:, None] if outputs.ndim == 1 else outputs

"""Embeddings: which of some vectors an image is nearest to (CLIP's zero-shot classes), and how near
it is to a single one (retrieval).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_numbers
from lit_iba.errors import InputError
from lit_iba.objectives.base import Objective, as_tensor, one_per_image
from lit_iba.objectives.classes import Classification

Vectors = Tensor | Sequence[Any] | str | Path


def read_vectors(given: Vectors, what: str) -> Tensor:
    """Vectors as float32: a tensor, lists of numbers, or a ``.npy`` file of them.

    Raises:
        InputError: They are none, or not finite.
    """
    if isinstance(given, str | Path):
        try:
            given = torch.from_numpy(np.load(given, allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise InputError(f"{what} cannot be read from {given} ({error})") from error
    try:
        found = torch.as_tensor(given).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} must be numbers or a .npy file of them ({error})") from error
    if not torch.isfinite(found).all() or found.ndim == 0 or bool((found.norm(dim=-1) == 0).any()):
        raise InputError(f"{what} must be finite and not zero")
    return found


def _hash(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.numpy().tobytes()).hexdigest()


def _check_width(shape: torch.Size, width: int | None, network: str, name: str) -> None:
    if len(shape) != 2 or (width is not None and shape[1] != width):
        wanted = "(B, D)" if width is None else f"(B, {width}), as the vectors are"
        raise InputError(
            f"{network} must map images to embeddings {wanted}, for the objective {name!r}, but "
            f"gives {tuple(shape)}; give the vectors of the same model, and for logits "
            "objective='classification'"
        )


class Embedding(Objective):
    """The nearest of K vectors: outputs (B, D) are embeddings, and their cosines with the vectors,
    divided by a temperature, are logits of classes. With the embeddings of K sentences that is
    CLIP's zero-shot classification; with those of K images it is retrieval among them.

    Targets number the vectors, int64 (B,).

    Args:
        vectors: (K, D), K of 2 or more, as a tensor, as lists, or as a ``.npy`` file.
        temperature: Of the softmax; 0.01 is where CLIP's training ends.

    Raises:
        InputError: The vectors are not as described, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Embedding
        >>> objective = Embedding(vectors=[[1.0, 0.0], [0.0, 1.0]], temperature=0.5)
        >>> outputs = torch.tensor([[3.0, 4.0]])
        >>> objective.predicted(outputs), objective.score(outputs, torch.tensor([1]))
        (tensor([1]), tensor([0.8000]))
    """

    name: ClassVar[str] = "embedding"
    score_is: ClassVar[str] = "the cosine of the embedding with the target's vector"
    probability_is: ClassVar[str] = (
        "softmax probability of the target's vector among all, by cosine over temperature"
    )
    divergence_is: ClassVar[str] = "KL divergence in nats between the softmaxes over the vectors"
    decision_is: ClassVar[str] = "the nearest vector"

    def __init__(self, vectors: Vectors | None = None, temperature: float = 0.01) -> None:
        if vectors is None:
            raise InputError(
                "embedding needs the vectors to compare with, (K, D); give {'name': 'embedding', "
                "'vectors': ...}, or 'similarity' for one vector"
            )
        check_numbers(0, exclusive=True, temperature=temperature)
        found = read_vectors(vectors, "vectors")
        if found.ndim != 2 or len(found) < 2:
            raise InputError(
                f"vectors are of shape {tuple(found.shape)}; give (K, D), K of 2 or more, or the "
                "objective 'similarity' for one vector"
            )
        self.vectors, self.temperature = F.normalize(found, dim=1), float(temperature)
        self._classes = Classification()

    @property
    def settings(self) -> dict[str, Any]:
        """A hash of the vectors, and the temperature."""
        return {"vectors": _hash(self.vectors), "temperature": self.temperature}

    def cosines(self, outputs: Tensor) -> Tensor:
        """With every vector, (B, K)."""
        return F.normalize(outputs, dim=1) @ self.vectors.to(outputs).T

    def _logits(self, outputs: Tensor) -> Tensor:
        return self.cosines(outputs) / self.temperature

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """K, of outputs (B, D)."""
        _check_width(shape, self.vectors.shape[1], network, self.name)
        return len(self.vectors)

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Numbers of vectors, int64 (count,)."""
        return self._classes.check_targets(target, count, classes, outputs)

    def of_labels(self, labels: Tensor) -> Tensor:
        """Each numbers a vector."""
        return labels

    def predicted(self, outputs: Tensor) -> Tensor:
        """The nearest vector."""
        return self.cosines(outputs).argmax(dim=1)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cosine with the target's vector."""
        return self._classes.score(self.cosines(outputs), targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the softmax over the vectors."""
        return self._classes.loss(self._logits(outputs), targets)

    def log_odds(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As of classes."""
        return self._classes.log_odds(self._logits(outputs), targets)

    def alternatives(self, classes: int) -> int:
        """All vectors."""
        return classes

    def reference(self, outputs: Tensor) -> Tensor:
        """Log-probabilities of the vectors (B, K)."""
        return self._classes.reference(self._logits(outputs))

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """KL divergence of the softmaxes over the vectors."""
        return self._classes.divergence(self._logits(outputs), reference)

    def decision(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The nearest vector, whatever the target."""
        return self.predicted(outputs)

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The vector's name."""
        return class_names[int(target)]


class Similarity(Objective):
    """How near an embedding (B, D) is to a vector: the image's own part in a match.

    Nothing says how near is near, so that the image's own cosine is the measure: the loss is how
    much of that cosine is lost, over a temperature, and 0 where nothing is.

    Targets are vectors, (D,) or (B, D). Inside they carry the cosine to keep, (B, D + 1).

    Args:
        vector: Compared with where no target is given, (D,).
        temperature: Loss of cosine that costs one nat.

    Raises:
        InputError: The vector is not as described, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> from lit_iba.objectives import Similarity
        >>> objective = Similarity(vector=[1.0, 0.0], temperature=0.1)
        >>> targets = objective.predicted(torch.tensor([[0.6, 0.8]]))
        >>> objective.loss(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), targets.expand(2, -1))
        tensor([0., 6.])
    """

    name: ClassVar[str] = "similarity"
    score_is: ClassVar[str] = "the cosine of the embedding with the target"
    probability_is: ClassVar[str] = "exp(-lost / temperature) of the cosine that is lost"
    divergence_is: ClassVar[str] = "(1 - cosine of the embeddings) / temperature"
    decision_is: ClassVar[str] = "whether exp(-lost / temperature) of the cosine is 1/2 or more"

    def __init__(self, vector: Vectors | None = None, temperature: float = 0.01) -> None:
        check_numbers(0, exclusive=True, temperature=temperature)
        self.vector = None if vector is None else read_vectors(vector, "vector")
        if self.vector is not None and self.vector.ndim != 1:
            raise InputError(
                f"vector is of shape {tuple(self.vector.shape)}; give (D,), or the objective "
                "'embedding' for several"
            )
        self.temperature = float(temperature)

    @property
    def settings(self) -> dict[str, Any]:
        """A hash of the vector, and the temperature."""
        vector = None if self.vector is None else _hash(self.vector)
        return {"vector": vector, "temperature": self.temperature}

    def check_outputs(self, shape: torch.Size, network: str) -> int:
        """0, of outputs (B, D)."""
        _check_width(shape, None if self.vector is None else len(self.vector), network, self.name)
        return 0

    def check_targets(
        self, target: Any, count: int, classes: int, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """Vectors and the cosines to keep, float32 (count, D + 1)."""
        given = as_tensor(target, "a vector").float()
        width = outputs().shape[1]
        if given.ndim == 2 and given.shape[1] == width + 1:  # with their cosines already
            return one_per_image(given, count, "a vector each")
        if given.ndim not in (1, 2) or given.shape[-1] != width:
            raise InputError(
                f"target is of shape {tuple(given.shape)}; it must be a vector ({width},), or one "
                f"per image (B, {width})"
            )
        vectors = one_per_image(given if given.ndim == 2 else given[None], count, "a vector each")
        return self._with_cosines(read_vectors(vectors, "target"), outputs())

    def _with_cosines(self, vectors: Tensor, outputs: Tensor) -> Tensor:
        vectors = vectors.to(outputs.device)
        kept = F.cosine_similarity(outputs.detach().float(), vectors, dim=1)
        return torch.cat([vectors, kept[:, None]], dim=1)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The objective's own vector, with the cosine that each image has."""
        if self.vector is None:
            raise InputError(
                "similarity compares with a vector, and none was given; give it as target (D,) or "
                "(B, D), or once as {'name': 'similarity', 'vector': ...}"
            )
        return self._with_cosines(self.vector.expand(len(outputs), -1), outputs)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cosine."""
        return F.cosine_similarity(outputs, targets[:, :-1].to(outputs.dtype), dim=1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How much of the cosine is lost, in temperatures."""
        return (targets[:, -1] - self.score(outputs, targets)).relu() / self.temperature

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """How far the embedding has turned, in temperatures."""
        return (1 - F.cosine_similarity(outputs, reference, dim=1)) / self.temperature

    def described(self, target: Tensor, class_names: Sequence[str]) -> str:
        """The cosine to keep."""
        return f"cosine {float(target[-1]):.3f}"

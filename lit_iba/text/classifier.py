"""A trained, frozen text classifier, cut behind any of its layers: what explainers and metrics of
texts need of an LSTM or a transformer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_iba.checks import check_literals
from lit_iba.classifier.frozen_network import FrozenNetwork
from lit_iba.classifier.own_copy import floating_parameter, in_full_precision, own_copy, unwrapped
from lit_iba.errors import InputError, shown
from lit_iba.text.words import Words, check_whole

Baseline = Literal["unk", "mask", "zero"]


class TextClassifier(ABC):
    """A classifier of texts that is only looked at: a copy of the user's module, which shares the
    memory of its tensors, wants no gradients and has no dropout.

    Layer 0 are the embeddings, layer 1 the output of the first block, and so on.

    Args:
        network: The user's module.
        name: What it is called.
        max_length: Positions read of a text, from its beginning.
        class_names: Name of each class.
        weights: Where the parameters came from, for the record.
        vocabulary: Fingerprint of what turns texts into numbers.

    Example:
        >>> from lit_iba.text import TextClassifier
        >>> isinstance(text_classifier, TextClassifier)
        True
        >>> words = text_classifier.words(["A great film."])
        >>> embeddings = text_classifier.embeddings(words)
        >>> features = text_classifier.features(embeddings, words, 1)
        >>> text_classifier.logits(features, words, 1).shape
        torch.Size([1, 2])
    """

    kind_of_layer: ClassVar[str]  # in messages

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        max_length: int,
        class_names: Sequence[str],
        weights: str,
        vocabulary: str,
    ) -> None:
        given = unwrapped(network)
        self.frozen = FrozenNetwork(
            in_full_precision(own_copy(given)), name=name, weights=weights, original=given
        )
        self.max_length, self.weights, self._vocabulary = max_length, weights, vocabulary
        # They come from files and go to terminals.
        self.class_names = [shown(str(name)) for name in class_names]
        self.num_classes = len(self.class_names)

    @property
    def network(self) -> Any:
        """The frozen copy."""
        return self.frozen.model

    @property
    def identity(self) -> dict[str, Any]:
        """Network, weights and vocabulary, with hashes over both."""
        own = {"vocabulary": self._vocabulary, "max_length": self.max_length}
        return self.frozen.identity | own

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return floating_parameter(self.network).device

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers behind the embeddings."""

    @property
    @abstractmethod
    def usual_layer(self) -> int:
        """The hidden layer that a bottleneck is put behind, where none is named."""

    @abstractmethod
    def words(self, texts: Sequence[str]) -> Words:
        """Read, cut and pad.

        Raises:
            InputError: No texts, or one without words.
        """

    @abstractmethod
    def embeddings(self, words: Words) -> Tensor:
        """Embeddings (B, T, D) of what stands at each position."""

    @abstractmethod
    def features(self, embeddings: Tensor, words: Words, layer: int) -> Tensor:
        """Output (B, T, D) of a layer, 1 to ``depth``; of layer 0, the embeddings themselves."""

    @abstractmethod
    def logits(self, features: Tensor, words: Words, layer: int = 0) -> Tensor:
        """Logits (B, K) from the output of a layer."""

    @property
    @abstractmethod
    def table(self) -> Tensor:
        """The embeddings (V, D) of all numbers."""

    @abstractmethod
    def number_of(self, token: Literal["unk", "mask"]) -> int:
        """Number of the token for unknown words, or of the mask token.

        Raises:
            InputError: The classifier has none.
        """

    def fill(self, baseline: Baseline) -> Tensor:
        """What stands in the place of each position of a removed word, (D,): the embedding of the
        token for unknown words (``"unk"``), of the mask token (``"mask"``), or ``"zero"``.

        Raises:
            InputError: The classifier has no such token.
        """
        check_literals(TextClassifier.fill, locals())
        if baseline == "zero":
            return torch.zeros_like(self.table[0])
        return self.table[self.number_of(baseline)].detach()

    def check_layer(self, layer: int | None) -> int:
        """The layer, counted from 1 below; -1 is the top one, None the usual one.

        Raises:
            InputError: There is none such.
        """
        layer = self.usual_layer if layer is None else layer
        found = self.depth + 1 + layer if layer < 0 else layer
        if not 1 <= found <= self.depth:
            raise InputError(
                f"layer is {layer}; the classifier has {self.kind_of_layer} layers 1 to"
                f" {self.depth}"
            )
        return found

    @abstractmethod
    def check_spread(self, layer: int) -> None:
        """Refuse a layer behind which one position only is read.

        Raises:
            InputError: All information would be found there.
        """

    def check_identity(self, other: dict[str, Any], what: str) -> None:
        """Refuse something that was made with other parameters or words.

        Raises:
            InputError: A fingerprint differs.
        """
        own = self.identity
        for name in ("sha256", "vocabulary"):
            if other.get(name) != own[name]:
                raise InputError(
                    f"{what} was made with another classifier ({name} {str(other.get(name))[:12]},"
                    f" here {own[name][:12]}); make it again"
                )


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is no list of texts.

    Raises:
        InputError: There are none, or one is no string, or has halves of characters.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError("texts must be a list of strings; put a single text into one, [text]")
    if not texts:
        raise InputError("no texts were given; give at least one")
    for i, text in enumerate(texts, start=1):
        check_whole(text, f"text {i}")

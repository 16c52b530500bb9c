"""A trained, frozen text classifier, cut behind any of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_literals
from lit_iba.classifier.weights import fingerprint, load_into
from lit_iba.errors import InputError
from lit_iba.text.lstm import LSTMClassifier, word_mask
from lit_iba.text.lstm_training import TEXT_KEY, UNKNOWN, VOCABULARY_KEY
from lit_iba.text.reviews import CLASS_NAMES
from lit_iba.text.vocabulary import Vocabulary, tokenize
from lit_iba.training.checkpoint import entries_of, read_checkpoint


@dataclass(frozen=True)
class Words:
    """Texts as the classifier takes them.

    Args:
        tokens: The words of each text.
        numbers: int64 (B, T), 0 behind a text's end.
        lengths: int64 (B,).

    Example:
        >>> words = text_classifier.words(["A great film.", "Great."])
        >>> words.tokens
        [['a', 'great', 'film', '.'], ['great', '.']]
        >>> words.lengths
        tensor([4, 2])
    """

    tokens: list[list[str]]
    numbers: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> Tensor:
        """Where words are, bool (B, T)."""
        return word_mask(self.lengths, self.numbers.shape[1])

    def part(self, which: slice) -> Words:
        """Some of the texts, padded to the longest among them."""
        lengths = self.lengths[which]
        return Words(self.tokens[which], self.numbers[which, : int(lengths.max())], lengths)


class TextClassifier:
    """An LSTM that is only looked at: no parameter wants gradients, and dropout is off.

    Args:
        network: The LSTM.
        vocabulary: Its words.
        max_length: Words kept of a text, from its beginning.
        class_names: Name of each class.
        weights: Where the parameters came from, for the record.

    Example:
        >>> from lit_iba.text import LSTMClassifier, TextClassifier, Vocabulary
        >>> vocabulary = Vocabulary.build(["A great film.", "A boring film."])
        >>> network = LSTMClassifier(len(vocabulary), embedding_size=8, hidden_size=8, depth=2)
        >>> classifier = TextClassifier(network, vocabulary, max_length=20)
        >>> words = classifier.words(["A great film."])
        >>> classifier.logits(classifier.embeddings(words), words.lengths).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        network: LSTMClassifier,
        vocabulary: Vocabulary,
        max_length: int,
        class_names: Sequence[str] = CLASS_NAMES,
        weights: str = "",
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        # cuDNN keeps what a backward pass through an LSTM needs in training mode only. These have
        # no dropout of their own, so that they compute the same in both modes; the dropout between
        # them stays off.
        self.network.lstm.train()
        self.vocabulary, self.max_length, self.weights = vocabulary, max_length, weights
        self.class_names, self.num_classes = list(class_names), network.linear.out_features
        self.identity: dict[str, Any] = {
            "model": "lstm",
            "weights": Path(weights).name,
            "sha256": fingerprint(network),
            "vocabulary": vocabulary.sha256,
            "max_length": max_length,
        }

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> TextClassifier:
        """Load what ``SentimentTraining`` wrote.

        Raises:
            InputError: The file is missing, damaged or of another training, or its vocabulary was
                changed.
        """
        checkpoint = read_checkpoint(path, "SentimentTraining")
        with entries_of(path):
            vocabulary = Vocabulary.from_json(checkpoint[VOCABULARY_KEY], f"checkpoint {path}")
            shape, length = checkpoint[TEXT_KEY]["shape"], checkpoint[TEXT_KEY]["max_length"]
            if not isinstance(length, int) or length < 1:
                raise ValueError(f"max_length is {length!r}")
            network = LSTMClassifier(len(vocabulary), **shape)
            state = checkpoint["state_dict"].items()
            own = {k.removeprefix("network."): v for k, v in state if k.startswith("network.")}
            load_into(network, own, str(path))
        classes = shape["classes"]
        names = CLASS_NAMES if classes == len(CLASS_NAMES) else [str(i) for i in range(classes)]
        return cls(network.to(device), vocabulary, length, names, str(path))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.linear.weight.device

    @property
    def depth(self) -> int:
        """Number of LSTM layers; layer 0 is the embeddings."""
        return self.network.depth

    def words(self, texts: Sequence[str]) -> Words:
        """Tokenise, cut and pad.

        Raises:
            InputError: No texts, or one without words.
        """
        tokens = [tokenize(text)[: self.max_length] for text in texts]
        if not tokens:
            raise InputError("no texts were given; give at least one")
        for i, words in enumerate(tokens):
            if not words:
                raise InputError(f"text {i + 1} has no words; give letters, digits or punctuation")
        lengths = torch.tensor([len(words) for words in tokens])
        numbers = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.int64)
        for row, words in zip(numbers, tokens, strict=True):
            row[: len(words)] = torch.tensor(self.vocabulary.numbers(words))
        return Words(tokens, numbers.to(self.device), lengths.to(self.device))

    def embeddings(self, words: Words) -> Tensor:
        """Embeddings (B, T, D), zero behind a text's end."""
        return self.network.embedding(words.numbers)

    def fill(self, baseline: Literal["unk", "zero"]) -> Tensor:
        """What stands in a removed word's place, (D,): the embedding of ``<unk>`` (``"unk"``), or
        ``"zero"``.
        """
        check_literals(TextClassifier.fill, locals())
        unknown = self.network.embedding.weight[UNKNOWN].detach()
        return unknown if baseline == "unk" else torch.zeros_like(unknown)

    def features(self, embeddings: Tensor, layer: int) -> Tensor:
        """Output (B, T, D) of an LSTM layer, 1 to ``depth``; 0 are the embeddings themselves."""
        return self.network.layers(embeddings, 0, layer)

    def logits(self, features: Tensor, lengths: Tensor, layer: int = 0) -> Tensor:
        """Logits (B, K) from the output of a layer."""
        return self.network.head(self.network.layers(features, layer, self.depth), lengths)

    def check_layer(self, layer: int) -> int:
        """The layer, counted from 1 below; -1 is the top one.

        Raises:
            InputError: There is none such.
        """
        found = self.depth + 1 + layer if layer < 0 else layer
        if not 1 <= found <= self.depth:
            raise InputError(f"layer is {layer}; the classifier has LSTM layers 1 to {self.depth}")
        return found

    def check_identity(self, other: dict[str, Any], what: str) -> None:
        """Refuse something that was made with other parameters or words.

        Raises:
            InputError: A fingerprint differs.
        """
        for name in ("sha256", "vocabulary"):
            if other.get(name) != self.identity[name]:
                raise InputError(
                    f"{what} was made with another classifier ({name} {str(other.get(name))[:12]},"
                    f" here {self.identity[name][:12]}); make it again"
                )

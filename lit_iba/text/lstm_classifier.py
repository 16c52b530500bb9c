"""The LSTM of InputIBA's experiments as a frozen text classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_iba.classifier.own_copy import unwrapped
from lit_iba.classifier.weights import load_into
from lit_iba.errors import InputError
from lit_iba.text.classifier import TextClassifier, check_texts
from lit_iba.text.lstm import LSTMClassifier
from lit_iba.text.lstm_training import TEXT_KEY, UNKNOWN, VOCABULARY_KEY
from lit_iba.text.reviews import class_names_for
from lit_iba.text.vocabulary import Vocabulary, tokenize
from lit_iba.text.words import ReadText, Words
from lit_iba.training.checkpoint import entries_of, read_checkpoint


class LSTMTextClassifier(TextClassifier):
    """An LSTM that is only looked at; each position is a word.

    Args:
        network: The LSTM; it stays as it is.
        vocabulary: Its words.
        max_length: Words kept of a text, from its beginning.
        class_names: Name of each class; by default negative and positive, or of more than two
            classes their numbers.
        weights: Where the parameters came from, for the record.

    Example:
        >>> from lit_iba.text import LSTMClassifier, LSTMTextClassifier, Vocabulary
        >>> vocabulary = Vocabulary.build(["A great film.", "A boring film."])
        >>> network = LSTMClassifier(len(vocabulary), embedding_size=8, hidden_size=8, depth=2)
        >>> classifier = LSTMTextClassifier(network, vocabulary, max_length=20)
        >>> words = classifier.words(["A great film."])
        >>> classifier.logits(classifier.embeddings(words), words).shape
        torch.Size([1, 2])
    """

    kind_of_layer: ClassVar[str] = "LSTM"

    def __init__(
        self,
        network: LSTMClassifier,
        vocabulary: Vocabulary,
        max_length: int,
        class_names: Sequence[str] | None = None,
        weights: str = "",
    ) -> None:
        given: Any = unwrapped(network)
        super().__init__(
            network,
            name="lstm",
            max_length=max_length,
            class_names=class_names_for(given.linear.out_features, class_names),
            weights=weights,
            vocabulary=vocabulary.sha256,
        )
        # cuDNN keeps what a backward pass through an LSTM needs in training mode only. These have
        # no dropout of their own, so that they compute the same in both modes; the dropout between
        # them stays off.
        self.network.lstm.train()
        self.vocabulary = vocabulary

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str | torch.device = "cpu"
    ) -> LSTMTextClassifier:
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
            # Older ones name no classes.
            names = checkpoint[TEXT_KEY].get("class_names", class_names_for(shape["classes"]))
            named = isinstance(names, list) and all(isinstance(name, str) for name in names)
            if not named or len(names) != shape["classes"]:
                raise ValueError(f"class_names is {names!r}")
        return cls(network.to(device), vocabulary, length, names, str(path))

    @property
    def depth(self) -> int:
        """Number of LSTM layers; layer 0 is the embeddings."""
        return self.network.depth

    @property
    def usual_layer(self) -> int:
        """The top one, as in the authors' code."""
        return self.depth

    def words(self, texts: Sequence[str]) -> Words:
        """Tokenise, cut and pad.

        Raises:
            InputError: No texts, or one without words.
        """
        check_texts(texts)
        read, numbers = [], []
        for i, text in enumerate(texts):
            every = tokenize(text)
            words = every[: self.max_length]
            if not words:
                raise InputError(f"text {i + 1} has no words; give letters, digits or punctuation")
            known = [word in self.vocabulary for word in words]
            cut = len(every) - len(words)
            read.append(ReadText(text, words, words, list(range(len(words))), known, cut=cut))
            numbers.append(self.vocabulary.numbers(words))
        return Words.of(read, numbers, 0, self.device)

    def embeddings(self, words: Words) -> Tensor:
        """Embeddings (B, T, D), zero behind a text's end."""
        self.frozen.weights_version()  # takes over what the user's module has got
        return self.network.embedding(words.numbers)

    @property
    def table(self) -> Tensor:
        """The embeddings (V, D) of the vocabulary."""
        return self.network.embedding.weight

    def number_of(self, token: Literal["unk", "mask"]) -> int:
        """Number of ``<unk>``; there is no mask token."""
        if token == "mask":
            raise InputError("an LSTM has no mask token; choose the baseline 'unk' or 'zero'")
        return UNKNOWN

    def features(self, embeddings: Tensor, words: Words, layer: int) -> Tensor:
        """Output (B, T, D) of an LSTM layer, 1 to ``depth``; 0 are the embeddings themselves."""
        return self.network.layers(embeddings, 0, layer)

    def logits(self, features: Tensor, words: Words, layer: int = 0) -> Tensor:
        """Logits (B, K) from the output of a layer."""
        return self.network.head(self.network.layers(features, layer, self.depth), words.lengths)

    def check_spread(self, layer: int) -> None:
        """Refuse the top layer where the last word alone is read."""
        if self.network.pooling == "last" and layer == self.depth:
            raise InputError(
                f"layer {layer} is read at the last word only; give iba a layer below it"
            )

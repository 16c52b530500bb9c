"""Sequence classifiers of transformers (DistilBERT, BERT, RoBERTa and their like) as frozen text
classifiers, cut at the word embeddings and behind any of their layers.

Nothing is downloaded, no code but that of transformers itself is run, and weights are read from
safetensors alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_iba.checks import check_counts
from lit_iba.classifier.own_copy import unwrapped
from lit_iba.errors import InputError
from lit_iba.randomness import generator_for
from lit_iba.text.classifier import TextClassifier, check_texts
from lit_iba.text.pieces import PieceReader
from lit_iba.text.transformer_cut import TransformerCut
from lit_iba.text.transformer_folder import load_folder
from lit_iba.text.words import ReadText, Words

ANY_LENGTH = 512  # pieces read where a network has no limit of its own
PROBE_LENGTHS = (7, 4)  # of the two texts that a network is tried on


class TransformerTextClassifier(TextClassifier):
    """A ``*ForSequenceClassification`` module of transformers that is only looked at.

    Texts are read by the tokenizer in pieces; explanations and metrics are by words. Layer 0 are
    the word embeddings, before positions are added, so that what is removed there is the word and
    not its place. The network is tried once on two texts: what stands behind the end of the shorter
    one must not matter, and every cut must give the same logits.

    Args:
        network: The module; it stays as it is.
        tokenizer: A ``tokenizer.json``, a ``tokenizers.Tokenizer``, or a
            ``PreTrainedTokenizerFast``.
        max_length: Pieces read of a text, special tokens included; by default as many as there are
            positions.
        class_names: Name of each class; by default those of the config.
        weights: Where the parameters came from, for the record.

    Raises:
        InputError: No transformers, another kind of module, a vocabulary that is larger than the
            embeddings, more pieces than positions, or a network that cannot be tried as above.

    Example:
        >>> from lit_iba.text import TransformerTextClassifier
        >>> classifier = TransformerTextClassifier.from_folder("distilbert")
        >>> words = classifier.words(["A great film!"])
        >>> words.tokens, words.lengths
        ([['A', 'great', 'film', '!']], tensor([7]))
        >>> classifier.logits(classifier.embeddings(words), words).shape
        torch.Size([1, 2])
    """

    kind_of_layer: ClassVar[str] = "transformer"

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        class_names: Sequence[str] | None = None,
        weights: str = "",
    ) -> None:
        network = unwrapped(network)
        config = _config_of(network)
        names = list(class_names or _names(config))
        if len(names) != config.num_labels:
            raise InputError(
                f"{len(names)} class names were given for {config.num_labels} classes; give one a"
                " class"
            )
        room = positions_of(network)
        length = room if max_length is None else max_length
        check_counts(max_length=length)
        if length > room:
            raise InputError(
                f"max_length is {length}, but {type(network).__name__} has {room} positions; give"
                f" at most {room}"
            )
        self.reader = PieceReader(tokenizer, length)
        super().__init__(
            network,
            name=type(network).__name__,
            max_length=length,
            class_names=names,
            weights=weights,
            vocabulary=self.reader.sha256,
        )
        self._cut = TransformerCut(self.network, self.frozen.name)
        rows = len(self.table)
        if self.reader.largest >= rows:
            raise InputError(
                f"the tokenizer has numbers up to {self.reader.largest}, but the embeddings of"
                f" {type(network).__name__} {rows} rows; give the tokenizer that it was trained"
                " with"
            )
        pad = getattr(config, "pad_token_id", None)
        self._pad = pad if isinstance(pad, int) and 0 <= pad < rows else 0
        self._cut.prove(self._probe(), self.num_classes)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        *,
        max_length: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> TransformerTextClassifier:
        """Load what ``save_pretrained`` of a model and of its fast tokenizer wrote.

        Args:
            folder: With ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
            device: Where it goes.
            max_length: As above.
            class_names: As above.

        Raises:
            InputError: A file is missing or damaged, the weights do not fit, or the config asks for
                code of its own.
        """
        model, path = load_folder(folder), Path(folder)
        return cls(
            model.to(device),
            path / "tokenizer.json",
            max_length=max_length,
            class_names=class_names,
            weights=str(folder),
        )

    @property
    def table(self) -> Tensor:
        """The word embeddings (V, D)."""
        return self._cut.embedding.weight  # type: ignore[return-value] # of an nn.Embedding

    @property
    def depth(self) -> int:
        """Number of layers; 0 where they are not a list of modules that run once each."""
        return len(self._cut.layers)

    @property
    def usual_layer(self) -> int:
        """The middle one: higher up, the text has been gathered at few positions."""
        return max(1, self.depth // 2)

    def words(self, texts: Sequence[str]) -> Words:
        """Read, cut and pad.

        Raises:
            InputError: No texts, or one without words.
        """
        check_texts(texts)
        both = [self.reader.read(text, i) for i, text in enumerate(texts)]
        read, numbers = [read for read, _ in both], [numbers for _, numbers in both]
        return Words.of(read, numbers, self._pad, self.device)

    def number_of(self, token: Literal["unk", "mask"]) -> int:
        """Number of the tokenizer's own token."""
        found = self.reader.number_of(token)
        if found is None:
            raise InputError(
                f"the tokenizer has no token for {token!r}; choose another baseline of 'unk',"
                " 'mask' and 'zero'"
            )
        return found

    def embeddings(self, words: Words) -> Tensor:
        """Word embeddings (B, T, D); positions are added behind them."""
        self.frozen.weights_version()  # takes over what the user's module has got
        return self._cut.embedding(words.numbers)

    def features(self, embeddings: Tensor, words: Words, layer: int) -> Tensor:
        """Output (B, T, D) of a layer, 1 to ``depth``; 0 are the embeddings themselves."""
        if layer == 0:
            return embeddings
        with self.frozen.lock:
            return self._cut.features(embeddings, words, layer)

    def logits(self, features: Tensor, words: Words, layer: int = 0) -> Tensor:
        """Logits (B, K) from the output of a layer."""
        with self.frozen.lock:
            return self._cut.logits(features, words, layer)

    def check_layer(self, layer: int | None) -> int:
        """The layer, counted from 1 below; each is tried once.

        Raises:
            InputError: There is none such, the network cannot be cut behind it, or one position
                only is read there, such as that of ``[CLS]`` at the top.
        """
        if not self.depth:
            raise InputError(
                f"the layers of {self.frozen.name} are no list of modules that run once each, so"
                " that it cannot be cut behind one; integrated_gradients and lime need no layer"
            )
        found = super().check_layer(layer)
        with self.frozen.lock:
            positions = self._cut.prove_layer(self._probe(), found)
        if positions == 1:
            raise InputError(
                f"layer {found} of {self.frozen.name} is read at one position only, such as that of"
                " [CLS], where all information would be found; give a layer below it"
            )
        return found

    def check_spread(self, layer: int) -> None:
        """Such a layer is none, see :meth:`check_layer`."""

    def _probe(self) -> Words:
        """Two texts of pieces drawn at random; all of them count as words."""
        generator, rows = generator_for(0, "probe"), len(self.table)
        numbers = [
            [int(n) for n in torch.randint(0, rows, (length,), generator=generator)]
            for length in (min(length, self.max_length) for length in PROBE_LENGTHS)
        ]
        # Where the padding's own number stands in a text, some networks take it for padding.
        numbers = [[(n + 1) % rows if n == self._pad else n for n in row] for row in numbers]
        read = [
            ReadText("", [""] * len(n), [""] * len(n), list(range(len(n))), []) for n in numbers
        ]
        return Words.of(read, numbers, self._pad, self.device)


def positions_of(network: Any) -> int:
    """How many positions a network has, special tokens included.

    RoBERTa and its like count from behind the number of padding, so that some rows of their
    position embeddings are no positions.
    """
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    stated = getattr(network.config, "max_position_embeddings", None)
    return stated if isinstance(stated, int) and stated > 0 else ANY_LENGTH


def _config_of(network: nn.Module) -> Any:
    """The config of a sequence classifier.

    Raises:
        InputError: It is none, or one that does not choose one of several classes.
    """
    config, name = getattr(network, "config", None), type(network).__name__
    if config is None or not hasattr(network, "get_input_embeddings"):
        raise InputError(
            f"the network is a {name}; give a sequence classifier of transformers, such as"
            " DistilBertForSequenceClassification"
        )
    kind = getattr(config, "problem_type", None)
    if config.num_labels < 2 or kind in ("regression", "multi_label_classification"):
        raise InputError(
            f"{name} has {config.num_labels} outputs and problem_type {kind}; words are explained"
            " for one of several classes, with a softmax over them"
        )
    return config


def _names(config: Any) -> list[str]:
    names = {int(number): str(name) for number, name in config.id2label.items()}
    return [names.get(i, f"LABEL_{i}") for i in range(config.num_labels)]

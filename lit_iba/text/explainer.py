"""Explainers of texts: a number for each word. The counterpart of ``lit_iba.explainer``, with texts
in place of images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_taken, check_targets
from lit_iba.errors import InputError
from lit_iba.randomness import sample_generators
from lit_iba.registry import class_named
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.words import Join, ReadText, Words


@dataclass(frozen=True)
class TokenHeatmap:
    """What one text's words are worth.

    Args:
        tokens: The words, as the classifier saw them.
        values: (W,), one per word.
        unit: Of the values, such as ``"bits"``; ``"1"`` for none.
        signed: Whether a negative value speaks against the target.
        method: Name of the explainer.
        target: Number of the class that is explained.
        probability: That the classifier gives the class.
        known: Whether the classifier has a number for each word; the others are ``<unk>`` to it.
        read: The text and its positions; None stands for a position per word.
        position_values: (P,), one per position, from which those of the words are joined.

    Example:
        >>> from lit_iba.text import RandomWords
        >>> heatmap = RandomWords(text_classifier).attribute(["A great xylophone."])[0]
        >>> heatmap.tokens
        ['a', 'great', 'xylophone', '.']
        >>> heatmap.known
        [True, True, False, True]
        >>> len(heatmap.highest(2))
        2
    """

    tokens: list[str]
    values: Tensor
    unit: str
    signed: bool
    method: str
    target: int
    probability: float
    known: list[bool]
    read: ReadText | None = None
    position_values: Tensor | None = None

    @property
    def total(self) -> float:
        """Sum over the words."""
        return float(self.values.double().sum())

    @property
    def pieces(self) -> list[tuple[str, float, int]]:
        """What stands at each position, its value, and the number of its word; -1 for a special
        token.
        """
        if self.read is None or self.position_values is None:
            values = self.values.tolist()
            return [(word, values[i], i) for i, word in enumerate(self.tokens)]
        values = self.position_values.tolist()
        return list(zip(self.read.pieces, values, self.read.word_of, strict=True))

    @property
    def special(self) -> list[tuple[str, float]]:
        """The special tokens and their values, which belong to no word."""
        return [(piece, value) for piece, value, word in self.pieces if word < 0]

    def highest(self, count: int) -> list[tuple[str, float]]:
        """The words with the largest values, and these."""
        order = self.values.argsort(descending=True, stable=True)[:count].tolist()
        return [(self.tokens[i], float(self.values[i])) for i in order]


class WordStatisticsSource(Protocol):
    """Where an explainer that is built by name gets statistics from."""

    def statistics(self, classifier: TextClassifier, layer: int) -> FeatureStatistics:
        """Mean and deviation over words of each dimension of a layer's output; layer 0 are the
        embeddings.
        """
        ...


class TextExplainer(ABC):
    """Turns texts and target classes into token heatmaps.

    A transformer reads a word in pieces. ``explain`` values positions; ``joined`` says how the
    values of a word's pieces become its own. They are summed where what they measure adds up: bits,
    because the bottleneck's noise is independent at every position, so that the information is the
    sum over positions; parts of a logit, because they sum to its change (completeness). They are
    averaged where they are no amounts, such as a mask, which is a mean over a word's elements.
    Special tokens are never joined to a word.

    Args:
        classifier: The network to explain; it stays frozen.
        seed: Together with the text's key, seeds whatever is random.

    Example:
        >>> import torch
        >>> from lit_iba.text import TextExplainer
        >>> class Length(TextExplainer):
        ...     name, unit = "length", "letters"
        ...     joined = "mean"  # every piece has the length of its word
        ...     def explain(self, words, targets, generators):
        ...         lengths = [[len(word) for word in tokens] for tokens in words.tokens]
        ...         return words.spread([torch.tensor(row) for row in lengths])
        >>> Length(text_classifier).attribute(["A great film."])[0].values
        tensor([1., 5., 4., 1.])
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""  # how it is called in print
    control: ClassVar[bool] = False  # whether it knows nothing of the text
    unit: str = "1"
    signed: bool = False
    joined: Join = "sum"

    def __init__(self, classifier: TextClassifier, *, seed: int = 0) -> None:
        check_counts(0, seed=seed)
        self.classifier, self.seed = classifier, seed
        self._version = classifier.frozen.look_at_weights()

    @classmethod
    def from_settings(
        cls,
        classifier: TextClassifier,
        settings: dict[str, Any],
        source: WordStatisticsSource | None = None,
    ) -> TextExplainer:
        """Build from a config's settings; explainers that need statistics override this."""
        return cls(classifier, **settings)

    @abstractmethod
    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Values (B, T) of positions for targets (B,); what is behind a text's end is ignored."""

    def attribute(
        self,
        texts: Sequence[str],
        target: Tensor | int | None = None,
        *,
        keys: Sequence[str] | None = None,
    ) -> list[TokenHeatmap]:
        """Explain texts together; no result depends on the others.

        Args:
            texts: The texts.
            target: Class of each text, int or (B,); None means the predicted class.
            keys: Name of each text, from which its random numbers follow; by default its own words.

        Returns:
            One heatmap per text, on the CPU.

        Raises:
            InputError: A text has no words, a target is out of range, or the classifier's weights
                have changed since the explainer was made.
        """
        with self.classifier.frozen.undisturbed():
            if self.classifier.frozen.look_at_weights() != self._version:
                raise InputError(
                    "the classifier's weights have changed since the explainer was made; make the"
                    " explainer again, and its statistics"
                )
            return self._heatmaps(texts, target, keys)

    def _heatmaps(
        self, texts: Sequence[str], target: Tensor | int | None, keys: Sequence[str] | None
    ) -> list[TokenHeatmap]:
        words = self.classifier.words(texts)
        with torch.no_grad():
            probabilities = self.classifier.logits(
                self.classifier.embeddings(words), words
            ).softmax(dim=1)
        if target is None:
            targets = probabilities.argmax(dim=1)
        else:
            checked = check_targets(target, len(words), self.classifier.num_classes)
            targets = checked.to(self.classifier.device).clone()
        if keys is not None and len(keys) != len(words):
            raise InputError(
                f"{len(keys)} keys were given for {len(words)} texts; give one key a text"
            )
        names = [" ".join(tokens) for tokens in words.tokens] if keys is None else keys
        values = (
            self.explain(
                words, targets, sample_generators(self.seed, names, self.classifier.device)
            )
            .detach()
            .float()
            .cpu()
        )
        joined = words.to_cpu().join(values, self.joined)
        return [
            TokenHeatmap(
                read.words,
                joined[i],
                self.unit,
                self.signed,
                self.name or type(self).__name__,
                int(targets[i]),
                float(probabilities[i, targets[i]]),
                read.known,
                read,
                values[i, : len(read.pieces)],
            )
            for i, read in enumerate(words.read)
        ]


TEXT_EXPLAINERS: dict[str, str] = {
    "input_iba": "lit_iba.text.TextInputIBA",
    "iba": "lit_iba.text.TextIBA",
    "integrated_gradients": "lit_iba.text.TextIntegratedGradients",
    "lime": "lit_iba.text.TextLIME",
    "random": "lit_iba.text.RandomWords",
    "constant": "lit_iba.text.ConstantWords",
    "position": "lit_iba.text.PositionWords",
}


def text_explainer_class(name: str) -> type[TextExplainer]:
    """The class behind a name or a dotted class path.

    Raises:
        InputError: There is none such.
    """
    return class_named(name, "text explainer", TEXT_EXPLAINERS, TextExplainer)  # type: ignore[type-abstract]


def printed_name(name: str, cls: type[TextExplainer]) -> str:
    """How an explainer is called in print: by the label of its class under the class's own name,
    and by a name of the user's own as it is.
    """
    if name not in TEXT_EXPLAINERS:
        return name
    label = cls.label or cls.__name__
    return label if text_explainer_class(name) is cls else f"{label} ({name})"


def build_text_explainer(
    name: str,
    classifier: TextClassifier,
    settings: dict[str, Any] | None = None,
    source: WordStatisticsSource | None = None,
) -> TextExplainer:
    """Build a text explainer by name.

    Args:
        name: A key of ``TEXT_EXPLAINERS``, or a dotted class path.
        classifier: The network to explain.
        settings: Keyword arguments of the explainer.
        source: Where statistics come from, for the explainers that need them.

    Raises:
        InputError: Unknown name or setting.

    Example:
        >>> from lit_iba.text import build_text_explainer
        >>> explainer = build_text_explainer("lime", text_classifier, {"samples": 20})
        >>> explainer.attribute(["A great film."])[0].values.shape
        torch.Size([4])
    """
    cls = text_explainer_class(name)
    plain = vars(TextExplainer)["from_settings"].__func__
    if getattr(cls.from_settings, "__func__", None) is plain:
        check_taken(cls.__init__, settings or {}, name, never=["classifier"])
    try:
        with classifier.frozen.undisturbed():
            return cls.from_settings(classifier, dict(settings or {}), source)
    except TypeError as error:
        raise InputError(f"the settings {settings} do not fit {name!r}: {error}") from error

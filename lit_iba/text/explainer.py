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

from lit_iba.checks import check_counts, check_targets
from lit_iba.errors import InputError
from lit_iba.randomness import sample_generators
from lit_iba.registry import class_named
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier, Words


@dataclass(frozen=True)
class TokenHeatmap:
    """What one text's words are worth.

    Args:
        tokens: The words, as the classifier saw them.
        values: (T,), one per word.
        unit: Of the values, such as ``"bits"``; ``"1"`` for none.
        signed: Whether a negative value speaks against the target.
        method: Name of the explainer.
        target: Number of the class that is explained.
        probability: That the classifier gives the class.
        known: Whether each word is in the vocabulary; the others are ``<unk>`` to the classifier.

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

    @property
    def total(self) -> float:
        """Sum over the words."""
        return float(self.values.double().sum())

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

    Args:
        classifier: The network to explain; it stays frozen.
        seed: Together with the text's key, seeds whatever is random.

    Example:
        >>> from lit_iba.text import TextExplainer
        >>> class Length(TextExplainer):
        ...     name, unit = "length", "letters"
        ...     def explain(self, words, targets, generators):
        ...         values = words.numbers.new_zeros(words.numbers.shape).float()
        ...         for row, tokens in zip(values, words.tokens):
        ...             row[: len(tokens)] = row.new_tensor([len(token) for token in tokens])
        ...         return values
        >>> Length(text_classifier).attribute(["A great film."])[0].values
        tensor([1., 5., 4., 1.])
    """

    name: ClassVar[str] = ""
    unit: str = "1"
    signed: bool = False

    def __init__(self, classifier: TextClassifier, *, seed: int = 0) -> None:
        check_counts(0, seed=seed)
        self.classifier, self.seed = classifier, seed

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
        """Values (B, T) of texts for targets (B,); what is behind a text's end is ignored."""

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
            InputError: A text has no words, or a target is out of range.
        """
        words = self.classifier.words(texts)
        with torch.no_grad():
            probabilities = self.classifier.logits(
                self.classifier.embeddings(words), words.lengths
            ).softmax(dim=1)
        if target is None:
            targets = probabilities.argmax(dim=1)
        else:
            targets = check_targets(target, len(words), self.classifier.num_classes).to(
                self.classifier.device
            )
        if keys is not None and len(keys) != len(words):
            raise InputError(
                f"{len(keys)} keys were given for {len(words)} texts; give one key a text"
            )
        names = [" ".join(tokens) for tokens in words.tokens] if keys is None else keys
        values = self.explain(
            words, targets, sample_generators(self.seed, names, self.classifier.device)
        ).detach()
        return [
            TokenHeatmap(
                tokens,
                values[i, : len(tokens)].float().cpu(),
                self.unit,
                self.signed,
                self.name or type(self).__name__,
                int(targets[i]),
                float(probabilities[i, targets[i]]),
                [t in self.classifier.vocabulary for t in tokens],
            )
            for i, tokens in enumerate(words.tokens)
        ]


TEXT_EXPLAINERS: dict[str, str] = {
    "input_iba": "lit_iba.text.TextInputIBA",
    "iba": "lit_iba.text.TextIBA",
    "integrated_gradients": "lit_iba.text.TextIntegratedGradients",
    "lime": "lit_iba.text.TextLIME",
    "random": "lit_iba.text.RandomWords",
}


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
    cls = class_named(name, "text explainer", TEXT_EXPLAINERS, TextExplainer)  # type: ignore[type-abstract]
    try:
        return cls.from_settings(classifier, dict(settings or {}), source)
    except TypeError as error:
        raise InputError(f"the settings {settings} do not fit {name!r}: {error}") from error

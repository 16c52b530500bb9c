"""Information bottlenecks on texts: noise with the statistics of words, and the mask of a layer,
one number per element.

IBA (Schulz et al., ICLR 2020) at a hidden layer, as InputIBA (Zhang et al., NeurIPS 2021, section
4.1) compares with it: the information at each position of the layer is taken for that of the word
there. The authors' code updates its statistics once a word but counts texts, and takes padding for
words; here they are over words, without padding.

Special tokens such as ``[CLS]`` are the same in every text. At the embeddings they tell nothing and
are let through. At a hidden layer they have gathered what the words say; let through, they would
lead all of it past the bottleneck. There, each is restricted with statistics of its own over
texts, and its bits are told apart from those of the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.errors import InputError
from lit_iba.iba.bottleneck import NATS_PER_BIT, SMALLEST_KEEP, mix
from lit_iba.iba.noise import floored
from lit_iba.iba.optimise import optimise_mask
from lit_iba.input_iba.bottleneck import input_information_nats
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TextExplainer, WordStatisticsSource
from lit_iba.text.words import Words

Special = Literal["restricted", "mean"]


@torch.no_grad()
def word_statistics(
    classifier: TextClassifier,
    texts: Sequence[str],
    layers: Iterable[int],
    *,
    data: str = "",
    batch_size: int = 32,
) -> dict[int, FeatureStatistics]:
    """Mean and standard deviation of each dimension of some layers' outputs over the words of
    texts.

    Args:
        classifier: The frozen classifier.
        texts: The texts, such as training reviews.
        layers: Hidden layers from 1; 0 are the embeddings.
        data: What the texts are, for the record.
        batch_size: Texts per pass.

    Returns:
        By layer, statistics of shape (D,) over words; at a hidden layer of a classifier with S
        special tokens (1 + S, D), over words and over each of these.

    Raises:
        InputError: A text has no words, or there is but one text with special tokens.
    """
    wanted, found = sorted(set(layers)), {}
    for start in range(0, len(texts), batch_size):
        words = classifier.words(texts[start : start + batch_size])
        embeddings, roles = classifier.embeddings(words), words.roles
        special = int(roles.max())
        for layer in wanted:
            features = classifier.features(embeddings, words, layer)
            if layer not in found:
                identity = {"classifier": classifier.identity, "layer": layer, "data": data}
                parts = 1 + (special if layer else 0)
                found[layer] = [
                    FeatureStatistics(features.shape[2:], identity) for _ in range(parts)
                ]
            found[layer][0].update(features[words.in_word])
            for role, part in enumerate(found[layer][1:], start=1):
                part.update(features[roles == role])
    return {layer: _together(parts) for layer, parts in found.items()}


def _together(parts: list[FeatureStatistics]) -> FeatureStatistics:
    """One (D,) as it is; several as (S, D), with the count of the first and all deviations kept."""
    words = parts[0]
    if len(parts) == 1:
        return words
    if min(part.count for part in parts) < 2:
        raise InputError("statistics of special tokens need at least two texts; give more texts")
    found = FeatureStatistics((len(parts), *words.shape), words.identity)
    found.count = words.count
    found.mean = torch.stack([part.mean for part in parts])
    found.sum_of_squares = torch.stack([part.std.square() * (words.count - 1) for part in parts])
    shares = torch.stack([part.active for part in parts])
    found.nonzero = (shares * words.count).round().long()
    return found


@dataclass(frozen=True)
class WordNoise:
    """The Gaussian that replaces a layer's output: mean and standard deviation of each dimension,
    (D,) over words, or (1 + S, D) over words and over each of the special tokens.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(
        cls,
        statistics: FeatureStatistics | str | Path,
        classifier: TextClassifier,
        layer: int,
        min_std: float = 0.01,
    ) -> WordNoise:
        """From statistics of a layer, or a file of them.

        Raises:
            InputError: They belong to another classifier or layer, or cover fewer than two words.
        """
        if not isinstance(statistics, FeatureStatistics):
            statistics = FeatureStatistics.load(statistics)
        classifier.check_identity(statistics.identity.get("classifier", {}), "the statistics")
        if statistics.identity.get("layer") != layer or statistics.count < 2:
            raise InputError(
                f"the statistics cover {statistics.count} words at layer"
                f" {statistics.identity.get('layer')}, but layer {layer} is asked for; estimate"
                " them with word_statistics"
            )
        mean, std = statistics.mean.float(), statistics.std
        std = floored(std, min_std, torch.ones_like(std, dtype=torch.bool)).float()
        return cls(mean.to(classifier.device), std.to(classifier.device))

    def at(self, words: Words) -> WordNoise:
        """The same at each position of texts, broadcastable to (B, T, D).

        Raises:
            InputError: The texts have other special tokens.
        """
        if self.mean.ndim == 1:
            return self
        roles = words.roles
        if int(roles.max()) >= len(self.mean):
            raise InputError(
                f"the statistics know {len(self.mean) - 1} special tokens a text, but one has"
                f" {int(roles.max())}; estimate them again"
            )
        return WordNoise(self.mean[roles], self.std[roles])

    def standardise(self, features: Tensor) -> Tensor:
        """(features - mean) / std."""
        return (features - self.mean) / self.std


def masks(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """lambda and 1 - lambda of logits; words are no picture, so that there is no blur."""
    drop = torch.sigmoid(-alpha).clamp(SMALLEST_KEEP, 1.0)
    return 1 - drop, drop


def normal_words(
    generators: Sequence[torch.Generator], samples: int, words: Words, size: int
) -> Tensor:
    """Standard normal numbers (samples, B, T, size), each text's from its own generator, whatever
    it is padded to.
    """
    drawn = torch.zeros(
        samples,
        len(words),
        words.numbers.shape[1],
        size,
        device=words.numbers.device,
        dtype=torch.float32,
    )
    for i, (generator, length) in enumerate(zip(generators, words.lengths.tolist(), strict=True)):
        drawn[:, i, :length] = torch.randn(
            (samples, length, size), generator=generator, device=drawn.device, dtype=torch.float32
        )
    return drawn


@dataclass(frozen=True)
class MaskFit:
    """How a mask is optimised.

    Args:
        beta: Weight of the information, the mean over a text's elements.
        steps: Adam updates.
        learning_rate: Of Adam.
        copies: Noise samples of each text a step.
        initial_alpha: Logit of the mask at the start.
    """

    beta: float
    steps: int
    learning_rate: float
    copies: int = 10
    initial_alpha: float = 5.0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, copies=self.copies)
        check_numbers(0, beta=self.beta)
        check_numbers(0, exclusive=True, learning_rate=self.learning_rate)

    def alpha(
        self,
        features: Tensor,
        words: Words,
        restricted: Tensor,
        noise: WordNoise,
        prior_drop: Tensor,
        tail: Callable[[Tensor, Words], Tensor],
        targets: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """The mask's logits (B, T, D) after the last update.

        Args:
            features: Output of a layer (B, T, D).
            words: The texts.
            restricted: Positions that the bottleneck restricts, bool (B, T); the others pass.
            noise: What replaces the features.
            prior_drop: 1 - lambda_G, broadcastable to the features; 1 where there is no prior.
            tail: From features (N, T, D) and texts to logits (N, K).
            targets: (B,).
            generators: One a text.
        """
        r, size = noise.standardise(features), features.shape[2]
        all_words, repeated = words.repeat(self.copies), targets.repeat(self.copies)
        inside, counts = restricted[..., None], restricted.sum(dim=1)
        unit_noise = features.new_zeros(self.copies, *features.shape)

        def draw() -> None:
            unit_noise.copy_(normal_words(generators, self.copies, words, size))

        def loss(alpha: Tensor) -> Tensor:
            keep, drop = masks(alpha)
            z = mix(features, keep, drop, noise.mean, noise.std, unit_noise)  # (copies, B, T, D)
            logits = tail(torch.where(inside, z, features).flatten(0, 1), all_words)
            cross_entropy = F.cross_entropy(logits, repeated, reduction="sum") / self.copies
            nats = input_information_nats(r, keep, drop, prior_drop).mean(dim=2)  # (B, T)
            information = ((nats * restricted).sum(dim=1) / counts).sum()
            return cross_entropy + self.beta * information

        start = torch.full_like(features, self.initial_alpha)
        return optimise_mask(start, loss, draw, steps=self.steps, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class LayerMask:
    """The optimised bottleneck at a layer: R, lambda, 1 - lambda and nats, all (B, T, D), and the
    noise at each position.
    """

    features: Tensor
    keep: Tensor
    drop: Tensor
    nats: Tensor
    noise: WordNoise

    def bits(self, words: Words) -> Tensor:
        """Bits per position, (B, T)."""
        return self.nats.sum(dim=2) * words.mask / NATS_PER_BIT


def layer_mask(
    classifier: TextClassifier,
    layer: int,
    noise: WordNoise,
    fit: MaskFit,
    words: Words,
    targets: Tensor,
    generators: Sequence[torch.Generator],
    special: Special = "restricted",
) -> LayerMask:
    """IBA at a hidden layer, for all texts together."""
    with torch.no_grad():
        features = classifier.features(classifier.embeddings(words), words, layer)
    none, here = features.new_ones(()), noise.at(words)
    restricted = words.mask
    if special == "mean":
        restricted = words.in_word
        features = torch.where((words.mask & ~restricted)[..., None], here.mean, features)
    tail = lambda z, repeated: classifier.logits(z, repeated, layer)  # noqa: E731
    alpha = fit.alpha(features, words, restricted, here, none, tail, targets, generators)
    keep, drop = masks(alpha)
    nats = input_information_nats(here.standardise(features), keep, drop, none)
    return LayerMask(features, keep, drop, nats * restricted[..., None], here)


class TextIBA(TextExplainer):
    """Bits per word at a hidden layer.

    Args:
        classifier: The network to explain.
        statistics: Word statistics of that layer (see :func:`word_statistics`), or a file of them.
        layer: Hidden layer whose output is restricted, from 1; -1 is the top one. By default that
            of an LSTM, as in the authors' code, and the middle one of a transformer.
        beta: Weight of the information (the authors' code: 15).
        steps: Adam updates (10).
        learning_rate: Of Adam (1).
        copies: Noise samples per step (10).
        special: What special tokens such as ``[CLS]`` may say at the layer: ``"restricted"``, with
            bits of their own, or ``"mean"``: each is as in the mean text, so that whatever the
            class needs has to pass by the words.
        seed: Seeds the noise, together with each text's key.

    Raises:
        InputError: A setting is out of range; statistics of something else; or the top layer of a
            network that reads one position only, so that all information would be found there.

    Example:
        >>> from lit_iba.text import TextIBA
        >>> explainer = TextIBA(text_classifier, statistics=text_statistics[2], steps=2, copies=2)
        >>> heatmap = explainer.attribute(["A great film."])[0]
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([4]), 'bits')
    """

    name: ClassVar[str] = "iba"
    label: ClassVar[str] = "IBA"
    unit = "bits"

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        statistics: FeatureStatistics | str | Path,
        layer: int | None = None,
        beta: float = 15.0,
        steps: int = 10,
        learning_rate: float = 1.0,
        copies: int = 10,
        special: Special = "restricted",
        seed: int = 0,
    ) -> None:
        check_literals(TextIBA.__init__, locals())
        super().__init__(classifier, seed=seed)
        self.layer = classifier.check_layer(layer)
        classifier.check_spread(self.layer)
        self.noise = WordNoise.of(statistics, classifier, self.layer)
        self.fit, self.special = MaskFit(beta, steps, learning_rate, copies), special

    @classmethod
    def from_settings(
        cls,
        classifier: TextClassifier,
        settings: dict[str, Any],
        source: WordStatisticsSource | None = None,
    ) -> TextIBA:
        """Build from a config: without ``statistics``, they are estimated on the run's own
        texts.
        """
        return cls(classifier, **with_statistics(cls.name, classifier, settings, source))

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Bits per position."""
        return layer_mask(
            self.classifier,
            self.layer,
            self.noise,
            self.fit,
            words,
            targets,
            generators,
            self.special,
        ).bits(words)


def with_statistics(
    name: str,
    classifier: TextClassifier,
    settings: dict[str, Any],
    source: WordStatisticsSource | None,
) -> dict[str, Any]:
    """The settings with the layer's statistics among them.

    Raises:
        InputError: They are missing, and there is nowhere to take them from.
    """
    if "statistics" in settings:
        return settings
    if source is None:
        raise InputError(f"{name} needs statistics; make them with word_statistics")
    layer = classifier.check_layer(settings.get("layer"))
    return settings | {"statistics": source.statistics(classifier, layer)}

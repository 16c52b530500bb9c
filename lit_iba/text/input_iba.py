"""InputIBA at the word embeddings (Zhang et al., NeurIPS 2021, sections 3.2 to 3.4, and their
experiments on IMDB).

Stage a: IBA at a hidden layer gives Z*. Stage b: a prior Z_G = lambda_G I + (1 - lambda_G) eps_G on
the embeddings I, fitted by a Wasserstein GAN so that the hidden layer's output of Z_G is
distributed as Z*. Stage c: the bottleneck on the embeddings, whose information counts beyond that
prior (proposition 3). With the GAN, texts run one after the other: none depends on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_iba.iba.bottleneck import NATS_PER_BIT, mix
from lit_iba.input_iba.bottleneck import input_information_nats
from lit_iba.input_iba.critic import SLOPE, clip_weights, critic_loss, gradient_penalty
from lit_iba.input_iba.generator import uniform
from lit_iba.input_iba.settings import with_changes
from lit_iba.statistics import FeatureStatistics
from lit_iba.text.classifier import TextClassifier
from lit_iba.text.explainer import TextExplainer, WordStatisticsSource
from lit_iba.text.iba import (
    LayerMask,
    MaskFit,
    WordNoise,
    layer_mask,
    masks,
    normal_words,
    with_statistics,
)
from lit_iba.text.input_iba_settings import TextInputIBASettings
from lit_iba.text.words import Words

LEAST_SHARE = (
    0.05  # prior_start = "share" lies in [0.05, 0.95]: at the ends a sigmoid would not move
)
PENALTY, CLIP = 10.0, 0.01  # Gulrajani et al. 2017; Arjovsky et al. 2017


class WordCritics(nn.Module):
    """A critic for each of B texts, evaluated together by grouped convolutions.

    Each mixes the dimensions of a word, looks at its neighbours, and weighs words. ``forward`` maps
    features (S, B, T, D), zero behind each text's end, to scores (S, B); a text's score does not
    depend on what it is padded to.

    Args:
        words: The texts.
        size: D.
        width: Channels inside.
        generators: One a text, from which its weights are drawn.
    """

    def __init__(
        self, words: Words, size: int, width: int, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        self.texts, self.mask = len(words), words.mask[:, None]  # (B, 1, T)

        def drawn(generator: torch.Generator, fan_in: int, *sizes: int) -> Tensor:
            """Uniform within 1 / sqrt(fan_in), as torch's layers."""
            return torch.empty(sizes, device=generator.device, dtype=torch.float32).uniform_(
                -(fan_in**-0.5), fan_in**-0.5, generator=generator
            )

        mixing, looking, weighing = [], [], []
        for generator, length in zip(generators, words.lengths.tolist(), strict=True):
            mixing.append(drawn(generator, size, width, size, 1))
            looking.append(drawn(generator, 3 * width, width, width, 3))
            weighing.append(
                F.pad(
                    drawn(generator, width * length, width, length),
                    (0, self.mask.shape[2] - length),
                )
            )
        self.mixing, self.looking = (
            nn.Parameter(torch.cat(mixing)),
            nn.Parameter(torch.cat(looking)),
        )
        self.weighing = nn.Parameter(torch.stack(weighing))  # (B, width, T)
        self.biases = nn.Parameter(self.weighing.new_zeros(2, len(self.mixing)))

    def forward(self, features: Tensor) -> Tensor:
        """Scores (S, B)."""
        x = features.transpose(2, 3).flatten(1, 2)  # (S, B * D, T)
        x = F.leaky_relu(F.conv1d(x, self.mixing, self.biases[0], groups=self.texts), SLOPE)
        x = (x.unflatten(1, (self.texts, -1)) * self.mask).flatten(1, 2)
        x = F.leaky_relu(
            F.conv1d(x, self.looking, self.biases[1], padding=1, groups=self.texts), SLOPE
        )
        return (x.unflatten(1, (self.texts, -1)) * (self.weighing * self.mask)).sum(dim=(2, 3))


@dataclass(frozen=True)
class WordPrior:
    """lambda_G as logits (B, T, D), mu_G and sigma_G (B, T, 1)."""

    logits: Tensor
    mean: Tensor
    std: Tensor

    def sample(self, embeddings: Tensor, unit_noise: Tensor) -> Tensor:
        """Z_G, (S, B, T, D)."""
        return mix(embeddings, *masks(self.logits), self.mean, self.std, unit_noise)


def starting_prior(
    bits: Tensor, noise: WordNoise, embeddings: Tensor, kind: Literal["share", "bits"]
) -> WordPrior:
    """The prior that stage a gives: bits (B, T) a word, and the words' own mean and standard
    deviation.
    """
    logits = bits
    if kind == "share":
        share = bits / bits.amax(dim=1, keepdim=True).clamp_min(1e-12)
        logits = torch.logit(LEAST_SHARE + (1 - 2 * LEAST_SHARE) * share)
    each = torch.ones_like(embeddings[..., :1])
    return WordPrior(
        logits[..., None].expand_as(embeddings),
        each * noise.mean.mean(),
        each * noise.std.square().mean().sqrt(),
    )


class TextInputIBA(TextExplainer):
    """Bits per word at the embeddings.

    Args:
        classifier: The network to explain.
        statistics: Word statistics of that layer, or a file of them.
        input_statistics: Word statistics of the embeddings (layer 0), or a file of them.
        layer: Hidden layer of stage a, from 1; -1 is the top one. By default that of an LSTM, as in
            the authors' code, and the middle one of a transformer.
        seed: Seeds whatever is random, together with each text's key.
        settings: Any of :class:`TextInputIBASettings`.

    Raises:
        InputError: Unknown setting, one out of range, or statistics of something else.

    Example:
        >>> from lit_iba.text import TextInputIBA
        >>> explainer = TextInputIBA(
        ...     text_classifier, statistics=text_statistics[2], input_statistics=text_statistics[0],
        ...     gan="none", steps=2, copies=2,
        ... )
        >>> heatmap = explainer.attribute(["A great film."])[0]
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([4]), 'bits')
    """

    name: ClassVar[str] = "input_iba"
    label: ClassVar[str] = "InputIBA"

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        statistics: FeatureStatistics | str | Path,
        input_statistics: FeatureStatistics | str | Path,
        layer: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.settings = s = with_changes(TextInputIBASettings(), settings, "input_iba for texts")
        self.layer = classifier.check_layer(layer)
        self.noise = WordNoise.of(statistics, classifier, self.layer)
        self.input_noise = WordNoise.of(input_statistics, classifier, 0)
        self.feature_fit = MaskFit(s.beta_feat, s.feature_steps, 1.0, s.copies)
        self.input_fit = MaskFit(s.beta_input, s.steps, s.learning_rate, s.copies)
        bits = s.output == "bits"
        self.unit, self.joined = ("bits", "sum") if bits else ("1", "mean")

    @classmethod
    def from_settings(
        cls,
        classifier: TextClassifier,
        settings: dict[str, Any],
        source: WordStatisticsSource | None = None,
    ) -> TextInputIBA:
        """Build from a config: without ``statistics``, they are estimated on the run's own
        texts.
        """
        settings = with_statistics(cls.name, classifier, settings, source)
        if source is not None:
            settings = {"input_statistics": source.statistics(classifier, 0), **settings}
        return cls(classifier, **settings)

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Bits per position, or the mean mask; nothing at special tokens."""
        # How a sum rounds depends on the shapes that are computed, and the GAN makes several
        # percent of a rounding. Alone and without padding, a text meets the same shapes in every
        # batch.
        together = len(words) if self.settings.prior.gan == "none" else 1
        values = torch.zeros(words.numbers.shape, device=words.numbers.device, dtype=torch.float32)
        for start in range(0, len(words), together):
            part = slice(start, start + together)
            some = words.part(part)
            values[part, : some.numbers.shape[1]] = self._explain_part(
                some, targets[part], generators[part]
            )
        return values

    def _explain_part(
        self, words: Words, targets: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        with torch.no_grad():
            embeddings = self.classifier.embeddings(words)
        masked = layer_mask(
            self.classifier, self.layer, self.noise, self.feature_fit, words, targets, generators
        )
        prior = self.find_prior(embeddings, masked, words, generators)
        prior_drop = masks(prior.logits)[1]
        alpha = self.input_fit.alpha(
            embeddings,
            words,
            words.in_word,
            self.input_noise,
            prior_drop,
            self.classifier.logits,
            targets,
            generators,
        )
        keep, drop = masks(alpha)
        if self.settings.output == "mask":
            return keep.mean(dim=2) * words.in_word
        nats = input_information_nats(
            self.input_noise.standardise(embeddings), keep, drop, prior_drop
        )
        return nats.sum(dim=2) * words.in_word / NATS_PER_BIT

    def find_prior(
        self,
        embeddings: Tensor,
        masked: LayerMask,
        words: Words,
        generators: Sequence[torch.Generator],
    ) -> WordPrior:
        """Stage b: lambda_G, mu_G and sigma_G of every text."""
        s, c, noise = self.settings.prior, self.settings.critics, self.input_noise
        bits = masked.bits(words) * words.in_word
        start = starting_prior(bits, noise, embeddings, s.prior_start)
        if s.gan == "none":
            return start
        inside, at, repeated = words.mask[..., None], masked.noise, words.repeat(s.samples)
        critic = WordCritics(words, masked.features.shape[2], c.critic_width, generators)
        critics = torch.optim.RMSprop(critic.parameters(), lr=c.critic_learning_rate)
        logits, mean, std = (
            t.clone().requires_grad_() for t in (start.logits, start.mean, start.std)
        )
        prior = WordPrior(logits, mean, std)
        mover = torch.optim.RMSprop(
            [
                {"params": [logits], "lr": s.mask_learning_rate},
                {"params": [mean], "lr": s.noise_learning_rate},
                {"params": [std], "lr": s.noise_learning_rate / 2},
            ]
        )

        def draw(size: int) -> Tensor:
            return normal_words(generators, s.samples, words, size)

        def fakes() -> Tensor:
            around = embeddings + s.neighbourhood * noise.std * draw(embeddings.shape[2])
            z = prior.sample(around, draw(embeddings.shape[2]))
            z = torch.where(words.in_word[..., None], z, embeddings).flatten(0, 1)
            features = self.classifier.features(z, repeated, self.layer)
            features = features.unflatten(0, (s.samples, len(words)))
            return at.standardise(features) * inside

        def reals() -> Tensor:
            noises = draw(masked.features.shape[2])
            z_star = mix(masked.features, masked.keep, masked.drop, at.mean, at.std, noises)
            return at.standardise(z_star) * inside

        # RMSProp is elementwise and every loss a sum over texts: each text is fitted as if it were
        # alone.
        for _ in range(s.generator_steps):
            with torch.enable_grad():
                fake = fakes()
            for _ in range(
                c.critic_steps
            ):  # on the same fakes, which cost a pass through the network
                _update_critics(critic, critics, reals(), fake.detach(), c.lipschitz, generators)
            with torch.enable_grad():
                loss = -critic(fake).mean(dim=0).sum()
            logits.grad, mean.grad, std.grad = torch.autograd.grad(loss, (logits, mean, std))
            mover.step()
        return WordPrior(logits.detach(), mean.detach(), std.detach())


def _update_critics(
    critic: WordCritics,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    lipschitz: Literal["gradient_penalty", "clip"],
    generators: Sequence[torch.Generator],
) -> None:
    """One step of every text's critic on samples (S, B, T, D)."""
    with torch.enable_grad():
        loss = critic_loss(critic, real, fake).sum()
        if lipschitz == "gradient_penalty":
            loss = (
                loss
                + PENALTY
                * gradient_penalty(critic, real, fake, uniform(generators, len(real))).sum()
            )
        optimizer.zero_grad()
        loss.backward()
    optimizer.step()
    if lipschitz == "clip":
        clip_weights(critic, CLIP)

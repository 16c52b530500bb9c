"""What InputIBA is compared with on texts: integrated gradients, LIME and random numbers (section
4.1).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from lit_iba.baselines.lime import surrogate_coefficients
from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.errors import InputError
from lit_iba.perturbation import target_logits, target_probabilities
from lit_iba.text.classifier import TextClassifier, Words
from lit_iba.text.explainer import TextExplainer
from lit_iba.text.removal import scores_without


class RandomWords(TextExplainer):
    """Uniform noise in [0, 1): the floor of every metric.

    Example:
        >>> from lit_iba.text import RandomWords
        >>> heatmap = RandomWords(text_classifier).attribute(["A great film."])[0]
        >>> heatmap.tokens, heatmap.values.shape
        (['a', 'great', 'film', '.'], torch.Size([4]))
    """

    name: ClassVar[str] = "random"

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """One uniform number per word."""
        values = torch.zeros(words.numbers.shape, device=words.numbers.device)
        for i, (generator, length) in enumerate(
            zip(generators, words.lengths.tolist(), strict=True)
        ):
            values[i, :length] = torch.rand(length, generator=generator, device=values.device)
        return values


class TextIntegratedGradients(TextExplainer):
    """Integrated gradients at the embeddings (Sundararajan et al. 2017), summed over dimensions;
    Captum computes them.

    Args:
        classifier: The network to explain.
        steps: Points of the path.
        baseline: Where the path begins: every word ``<unk>`` (``"unk"``), or ``"zero"`` embeddings.
        forward_batch_size: Texts per forward pass.
        seed: Unused; nothing here is random.

    Example:
        >>> from lit_iba.text import TextIntegratedGradients
        >>> explainer = TextIntegratedGradients(text_classifier, steps=8)
        >>> heatmap = explainer.attribute(["A great film."], target=1)[0]
        >>> heatmap.tokens, heatmap.signed
        (['a', 'great', 'film', '.'], True)
    """

    name: ClassVar[str] = "integrated_gradients"
    signed = True

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        steps: int = 50,
        baseline: Literal["unk", "zero"] = "unk",
        forward_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_literals(TextIntegratedGradients.__init__, locals())
        check_counts(steps=steps, forward_batch_size=forward_batch_size)
        self.steps, self.fill, self.forward_batch_size = (
            steps,
            classifier.fill(baseline),
            forward_batch_size,
        )

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Path integral of the gradient of the target's logit."""
        embeddings = self.classifier.embeddings(words)
        values = IntegratedGradients(self.classifier.logits).attribute(
            # a copy, because Captum turns on requires_grad of what it is given
            embeddings.clone().requires_grad_(),
            baselines=self.fill.expand_as(embeddings),
            target=targets,
            additional_forward_args=(words.lengths,),
            n_steps=self.steps,
            internal_batch_size=max(self.forward_batch_size, len(words)),
        )
        return values.sum(dim=2) * words.mask


class TextLIME(TextExplainer):
    """LIME (Ribeiro et al., KDD 2016): coefficients of a linear model of what the classifier says
    without some of the words.

    As in the authors' text explainer, each sample lacks a number of words drawn uniformly from 1 to
    all; every word counts at its own place.

    Args:
        classifier: The network to explain.
        samples: Versions of a text, the first of which lacks nothing.
        baseline: What stands in a missing word's place: ``"unk"`` or ``"zero"``.
        score: The target's ``"probability"`` or ``"logit"``.
        kernel_width: Of the weights sqrt(exp(-d^2 / width^2)), d the cosine distance between a
            version and the whole text.
        regression: ``"ridge"`` or ``"lasso"``.
        penalty: Of the regression.
        forward_batch_size: Texts per forward pass.
        seed: Seeds the versions, together with each text's key.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.text import TextLIME
        >>> explainer = TextLIME(text_classifier, samples=20)
        >>> heatmap = explainer.attribute(["A great film."], target=1)[0]
        >>> len(heatmap.highest(2))
        2
    """

    name: ClassVar[str] = "lime"
    signed = True

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        samples: int = 1000,
        baseline: Literal["unk", "zero"] = "unk",
        score: Literal["probability", "logit"] = "probability",
        kernel_width: float = 0.25,
        regression: Literal["ridge", "lasso"] = "ridge",
        penalty: float = 1.0,
        forward_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_counts(samples=samples, forward_batch_size=forward_batch_size)
        check_literals(TextLIME.__init__, locals())
        check_numbers(0, penalty=penalty)
        check_numbers(0, exclusive=True, kernel_width=kernel_width)
        if samples < 2:
            raise InputError(f"samples is {samples}; a regression needs at least 2, usually 1000")
        self.samples, self.score, self.fill = samples, score, classifier.fill(baseline)
        self.surrogate: dict[str, Any] = {
            "kernel_width": kernel_width,
            "regression": regression,
            "penalty": penalty,
        }
        self.forward_batch_size = forward_batch_size

    @torch.no_grad()
    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Coefficients of each text's own linear model."""
        removed = [
            random_versions(length, self.samples, generator)
            for length, generator in zip(words.lengths.tolist(), generators, strict=True)
        ]
        score = target_probabilities if self.score == "probability" else target_logits
        scores = scores_without(
            self.classifier,
            words,
            targets,
            removed,
            self.fill,
            score=score,
            forward_batch_size=self.forward_batch_size,
        )
        values = torch.zeros(words.numbers.shape, device=words.numbers.device)
        for i, (gone, found) in enumerate(zip(removed, scores, strict=True)):
            values[i, : gone.shape[1]] = surrogate_coefficients(~gone, found, **self.surrogate).to(
                values
            )
        return values


def random_versions(length: int, samples: int, generator: torch.Generator) -> Tensor:
    """Which words each version of a text lacks, bool (samples, length): none in the first, 1 to all
    in the others.
    """
    device = generator.device
    counts = torch.randint(1, length + 1, (samples, 1), generator=generator, device=device)
    counts[0] = 0
    ranks = (
        torch.rand(samples, length, generator=generator, device=device)
        .argsort(dim=1)
        .argsort(dim=1)
    )
    return ranks < counts

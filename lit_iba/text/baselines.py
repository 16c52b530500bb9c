"""What InputIBA is compared with on texts: integrated gradients and LIME (section 4.1), and values
that know nothing of the classifier, which are every metric's floor.
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
from lit_iba.text.classifier import Baseline, TextClassifier
from lit_iba.text.explainer import TextExplainer
from lit_iba.text.removal import scores_without
from lit_iba.text.words import Join, Words


class RandomWords(TextExplainer):
    """Uniform noise in [0, 1): the floor of every metric.

    Example:
        >>> from lit_iba.text import RandomWords
        >>> heatmap = RandomWords(text_classifier).attribute(["A great film."])[0]
        >>> heatmap.tokens, heatmap.values.shape
        (['a', 'great', 'film', '.'], torch.Size([4]))
    """

    name: ClassVar[str] = "random"
    label: ClassVar[str] = "Random"
    control: ClassVar[bool] = True
    joined: Join = "mean"

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """One uniform number per word."""
        return words.spread(
            [
                torch.rand(count, generator=generator, device=generator.device, dtype=torch.float32)
                for generator, count in zip(generators, words.counts, strict=True)
            ]
        )


class ConstantWords(TextExplainer):
    """The same value everywhere; metrics that order words then take them as they stand.

    Example:
        >>> from lit_iba.text import ConstantWords
        >>> ConstantWords(text_classifier).attribute(["A great film."])[0].values
        tensor([1., 1., 1., 1.])
    """

    name: ClassVar[str] = "constant"
    label: ClassVar[str] = "Constant"
    control: ClassVar[bool] = True
    joined: Join = "mean"

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Ones."""
        return words.spread([torch.ones(count, dtype=torch.float32) for count in words.counts])


class PositionWords(TextExplainer):
    """Growing from a text's first word to its last, where reviews often give their verdict.

    Example:
        >>> from lit_iba.text import PositionWords
        >>> PositionWords(text_classifier).attribute(["A great film."])[0].values
        tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """

    name: ClassVar[str] = "position"
    label: ClassVar[str] = "Position"
    control: ClassVar[bool] = True
    joined: Join = "mean"

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Number of the word over their count, in (0, 1]."""
        return words.spread([torch.arange(1, count + 1) / count for count in words.counts])


class TextIntegratedGradients(TextExplainer):
    """Integrated gradients at the embeddings (Sundararajan et al. 2017), summed over dimensions;
    Captum computes them.

    Args:
        classifier: The network to explain.
        steps: Points of the path.
        baseline: Where the path begins: every word ``<unk>`` (``"unk"``), the mask token
            (``"mask"``), or ``"zero"`` embeddings; special tokens stay as they are.
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
    label: ClassVar[str] = "Integrated gradients"
    signed = True

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        steps: int = 50,
        baseline: Baseline = "unk",
        forward_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_literals(TextIntegratedGradients.__init__, locals())
        super().__init__(classifier, seed=seed)
        check_counts(steps=steps, forward_batch_size=forward_batch_size)
        self.steps, self.fill, self.forward_batch_size = (
            steps,
            classifier.fill(baseline),
            forward_batch_size,
        )

    def explain(self, words: Words, targets: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Path integral of the gradient of the target's logit."""
        embeddings = self.classifier.embeddings(words)

        def logits(points: Tensor, which: Tensor) -> Tensor:
            return self.classifier.logits(points, words.rows(which))

        values = IntegratedGradients(logits).attribute(
            # a copy, because Captum turns on requires_grad of what it is given
            embeddings.clone().requires_grad_(),
            baselines=torch.where(words.in_word[..., None], self.fill, embeddings),
            target=targets,
            additional_forward_args=(torch.arange(len(words), device=embeddings.device),),
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
        baseline: What stands in a missing word's place: ``"unk"``, ``"mask"`` or ``"zero"``.
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
    label: ClassVar[str] = "LIME"
    signed = True
    joined: Join = "mean"

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        samples: int = 1000,
        baseline: Baseline = "unk",
        score: Literal["probability", "logit"] = "probability",
        kernel_width: float = 0.25,
        regression: Literal["ridge", "lasso"] = "ridge",
        penalty: float = 1.0,
        forward_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_literals(TextLIME.__init__, locals())
        super().__init__(classifier, seed=seed)
        check_counts(samples=samples, forward_batch_size=forward_batch_size)
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
            for length, generator in zip(words.counts, generators, strict=True)
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
        return words.spread(
            [
                surrogate_coefficients(~gone, found, **self.surrogate)
                for gone, found in zip(removed, scores, strict=True)
            ]
        )


def random_versions(length: int, samples: int, generator: torch.Generator) -> Tensor:
    """Which words each version of a text lacks, bool (samples, length): none in the first, 1 to all
    in the others.
    """
    device = generator.device
    counts = torch.randint(1, length + 1, (samples, 1), generator=generator, device=device)
    counts[0] = 0
    ranks = (
        torch.rand(samples, length, generator=generator, device=device, dtype=torch.float32)
        .argsort(dim=1)
        .argsort(dim=1)
    )
    return ranks < counts

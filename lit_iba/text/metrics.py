"""Metrics of token heatmaps: sensitivity-n by percentage of the words, insertion and deletion by
words.

InputIBA (Zhang et al., NeurIPS 2021), sections 4.4.1 and 4.4.2, figures 4b and 5b. The counterpart
of ``lit_iba.metrics``: texts differ in length, so that percentages take the place of numbers of
pixels, and every text has random sets of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_taken
from lit_iba.errors import InputError, unknown_name
from lit_iba.metrics.base import Result, curve, mean_and_error
from lit_iba.metrics.sensitivity_n import ROUNDING_OF_LOGITS, ROUNDING_OF_SUMS, correlation
from lit_iba.perturbation import in_double, target_logits, target_probabilities
from lit_iba.text.classifier import Baseline, TextClassifier
from lit_iba.text.removal import scores_without
from lit_iba.text.words import Words


def word_counts(length: int, percents: Sequence[float]) -> list[int]:
    """How many of so many words percentages are, rounded."""
    return [round(length * percent / 100) for percent in percents]


class TextMetric(ABC):
    """Judges values of words; a row (K,) a text and heatmap, and a result that follows from rows.

    Example:
        >>> from lit_iba.text import TextMetric, build_text_metric
        >>> metric = build_text_metric("insertion", {"points": 5})
        >>> isinstance(metric, TextMetric), len(metric.x)
        (True, 6)
    """

    name: ClassVar[str]
    better: ClassVar[str]
    x_label: ClassVar[str]
    y_label: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        check_literals(type(self).__init__, settings)
        check_counts(forward_batch_size=settings["forward_batch_size"])
        self.settings = settings

    @property
    @abstractmethod
    def definition(self) -> str:
        """One sentence that says exactly what is computed."""

    @property
    def filling(self) -> str:
        """What stands in a removed word's place, in words."""
        names = {"unk": "<unk>", "mask": "the mask token", "zero": "a zero embedding"}
        return names[self.settings["baseline"]]

    @property
    @abstractmethod
    def x(self) -> Tensor:
        """Where a row's numbers lie, float64 (K,)."""

    @abstractmethod
    def rows(
        self,
        classifier: TextClassifier,
        words: Words,
        targets: Tensor,
        heatmaps: dict[str, list[Tensor]],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """Rows (B, K) of every explainer, on the CPU.

        Args:
            classifier: The frozen classifier.
            words: The texts.
            targets: Class that the heatmaps explain, (B,).
            heatmaps: By explainer, for each text its values (length,).
            generators: One a text, for random sets.
        """

    @abstractmethod
    def scores(self, rows: Tensor) -> Tensor:
        """A text's score from its row: (N, K) to float64 (N,)."""

    def summarize(self, rows: Tensor) -> Result:
        """Mean over texts, with the mean curve."""
        score, error = mean_and_error(self.scores(rows))
        curves = {self.name: curve(self.x, rows)}
        return Result(
            float(score),
            float(error),
            len(rows),
            curves=curves,
            x_label=self.x_label,
            y_label=self.y_label,
        )


class SensitivityN(TextMetric):
    """Pearson correlation between the sum of the values in a random set of words and the drop of
    the logit without them.

    At 100 % there is one set only, and so no correlation; a heatmap or a logit that does not vary
    counts as 0.

    Args:
        percents: How much of a text a set is, each above 0 and at most 100; at least one word.
        masks: Random sets of each text and percentage, drawn without replacement (the paper: 200;
            the code: 100).
        baseline: What stands in a removed word's place: ``"unk"``, the token for unknown words;
            ``"mask"``, the mask token; or ``"zero"``, a zero embedding (the authors' code).
        forward_batch_size: Texts per forward pass.
    """

    name = "sensitivity_n"
    better = "higher"
    x_label = "words removed, in percent"
    y_label = "correlation"

    def __init__(
        self,
        percents: Sequence[float] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        masks: int = 100,
        baseline: Baseline = "unk",
        forward_batch_size: int = 64,
    ) -> None:
        if masks < 2 or not percents or not all(0 < percent <= 100 for percent in percents):
            raise InputError(
                f"percents {list(percents)} must lie in (0, 100], and masks {masks} be at least 2"
            )
        super().__init__(
            percents=list(percents),
            masks=masks,
            baseline=baseline,
            forward_batch_size=forward_batch_size,
        )

    @property
    def definition(self) -> str:
        s = self.settings
        return (
            "Mean over percentages, and over texts, of the Pearson correlation between the sum of"
            " the values in a random set of words and the drop of the target's logit when they"
            f" become {self.filling}; {s['masks']} sets for each text and each of {s['percents']}"
            " %; what does not vary counts as 0"
        )

    @property
    def x(self) -> Tensor:
        return torch.tensor(self.settings["percents"], dtype=torch.float64)

    def sets(self, length: int, generator: torch.Generator) -> Tensor:
        """The random sets of a text, bool (K, masks, length)."""
        counts = [max(1, count) for count in word_counts(length, self.settings["percents"])]
        shape = (len(counts), self.settings["masks"], length)
        ranks = (
            torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
            .argsort(dim=2)
            .argsort(dim=2)
        )
        return ranks < torch.tensor(counts, device=ranks.device)[:, None, None]

    def rows(
        self,
        classifier: TextClassifier,
        words: Words,
        targets: Tensor,
        heatmaps: dict[str, list[Tensor]],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """Correlation at each percentage, (B, K); the drops are the same for all explainers."""
        sets = [self.sets(n, g) for n, g in zip(words.counts, generators, strict=True)]
        removed = [
            torch.cat([torch.zeros_like(s[0, :1]), s.flatten(0, 1)]) for s in sets
        ]  # the whole text first
        logits = scores_without(
            classifier,
            words,
            targets,
            removed,
            classifier.fill(self.settings["baseline"]),
            score=target_logits,
            forward_batch_size=self.settings["forward_batch_size"],
        )
        found: dict[str, list[Tensor]] = {name: [] for name in heatmaps}
        for i, (chosen, scores) in enumerate(zip(sets, logits, strict=True)):
            drops = in_double(scores[0] - scores[1:]).view(chosen.shape[:2])
            noise = ROUNDING_OF_LOGITS * in_double(scores).abs().amax()
            for name, values in heatmaps.items():
                given = in_double(values[i].to(chosen.device))
                sums = chosen.to(given) @ given
                found[name].append(
                    correlation(sums, drops, ROUNDING_OF_SUMS * given.abs().sum(), noise)
                    .float()
                    .cpu()
                )
        return {name: torch.stack(rows) for name, rows in found.items()}

    def scores(self, rows: Tensor) -> Tensor:
        """Mean over percentages."""
        return in_double(rows).mean(dim=1)


class WordExchange(TextMetric):
    """Area under the curve of the target's probability as words are exchanged, highest first, equal
    ones in reading order.

    Args:
        points: Points of the curve besides its beginning, at equal shares of the words, rounded to
            whole ones.
        baseline: ``"unk"``, ``"mask"``, or ``"zero"`` (the authors' code).
        forward_batch_size: Texts per forward pass.
    """

    inserts: ClassVar[bool]
    y_label = "probability of the target"

    def __init__(
        self,
        points: int = 20,
        baseline: Baseline = "unk",
        forward_batch_size: int = 64,
    ) -> None:
        check_counts(points=points)
        super().__init__(points=points, baseline=baseline, forward_batch_size=forward_batch_size)

    @property
    def definition(self) -> str:
        act = (
            f"inserted into a text of {self.filling}"
            if self.inserts
            else f"deleted, that is replaced by {self.filling}"
        )
        return (
            f"Area under the curve of the target's probability as words are {act}, highest value"
            f" first, over their share; {self.settings['points']} steps and the beginning,"
            " trapezoid"
        )

    @property
    def x(self) -> Tensor:
        return (
            torch.arange(self.settings["points"] + 1, dtype=torch.float64) / self.settings["points"]
        )

    def rows(
        self,
        classifier: TextClassifier,
        words: Words,
        targets: Tensor,
        heatmaps: dict[str, list[Tensor]],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """Probability at each point, (B, K + 1)."""
        found = {}
        for name, values in heatmaps.items():
            removed = []
            for given in values:
                order = given.argsort(descending=True, stable=True)
                counts = torch.tensor(word_counts(len(given), (100 * self.x).tolist()))
                exchanged = order.argsort() < counts[:, None].to(order.device)
                removed.append((~exchanged if self.inserts else exchanged).to(words.numbers.device))
            rows = scores_without(
                classifier,
                words,
                targets,
                removed,
                classifier.fill(self.settings["baseline"]),
                score=target_probabilities,
                forward_batch_size=self.settings["forward_batch_size"],
            )
            found[name] = torch.stack(rows).cpu()
        return found

    def scores(self, rows: Tensor) -> Tensor:
        """Area under each curve."""
        return torch.trapezoid(in_double(rows), self.x, dim=1)


class Insertion(WordExchange):
    """Area under the curve as words are inserted into an empty text."""

    name = "insertion"
    better = "higher"
    inserts = True
    x_label = "share of the words inserted"


class Deletion(WordExchange):
    """Area under the curve as words are deleted."""

    name = "deletion"
    better = "lower"
    inserts = False
    x_label = "share of the words deleted"


TEXT_METRICS: dict[str, type[TextMetric]] = {
    "sensitivity_n": SensitivityN,
    "insertion": Insertion,
    "deletion": Deletion,
}


def build_text_metric(name: str, settings: dict[str, Any] | None = None) -> TextMetric:
    """Build a text metric by name.

    Raises:
        InputError: Unknown name or setting.

    Example:
        >>> from lit_iba.text import build_text_metric
        >>> len(build_text_metric("deletion", {"points": 10}).x)
        11
    """
    if name not in TEXT_METRICS:
        raise unknown_name("text metric", name, TEXT_METRICS)
    check_taken(TEXT_METRICS[name].__init__, settings or {}, name)
    try:
        return TEXT_METRICS[name](**(settings or {}))
    except TypeError as error:
        raise InputError(
            f"the settings {settings} do not fit text metric {name!r}: {error}"
        ) from error

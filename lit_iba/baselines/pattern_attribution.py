"""PatternAttribution (Kindermans et al., "Learning how to explain neural networks", ICLR 2018): the
explainer; its patterns are estimated in patterns.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_iba.baselines.canonical import canonical
from lit_iba.baselines.patterns import Patterns, usual_estimator, weight_of
from lit_iba.baselines.propagation import (
    MAX_POOLINGS,
    WEIGHTED,
    ForwardPass,
    Step,
    score_start,
    to_positions,
    transpose,
    weighted_transpose,
    winners,
)
from lit_iba.baselines.steps import Add, Affine, Ceiling
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, Surroundings


class PatternAttribution(Explainer):
    """Signal of the target's logit, propagated through weight * pattern (section 4); summed over
    channels, signed.

    ReLUs and limits pass where they were open, a max pooling passes to the winner, averages and
    multiples share evenly. An addition passes each branch the share of the signal that its pattern
    says; the two add up to one in every channel.

    Args:
        classifier: The network to explain.
        patterns: Patterns of that network, or a file of them. From a config they are estimated
            once, on ``statistics_data``, with the ``estimator`` that it names.
        seed: Unused; nothing here is random.

    Raises:
        InputError: The patterns belong to another classifier, or the network has an operation
            without a rule, which is named.

    Example:
        >>> from lit_iba.baselines import PatternAttribution, Patterns
        >>> patterns = Patterns.estimate(classifier, [images])
        >>> heatmap = PatternAttribution(classifier, patterns).attribute(images, targets)
        >>> heatmap.values.shape, heatmap.signed
        (torch.Size([2, 64, 64]), True)
    """

    name: ClassVar[str] = "pattern_attribution"
    label: ClassVar[str] = "PatternAttribution"
    config_only: ClassVar[tuple[str, ...] | None] = ("estimator",)
    signed = True

    def __init__(
        self, classifier: FrozenClassifier, patterns: Patterns | str | Path, *, seed: int = 0
    ) -> None:
        super().__init__(classifier, seed=seed)
        if not isinstance(patterns, Patterns):
            patterns = Patterns.load(patterns, classifier)
        patterns.check(classifier)
        self.network = canonical(classifier)
        self.products = {  # weight * pattern, by step
            name: (
                weight_of(self.network.get_submodule(name), pattern.to(classifier.device))
                * pattern.to(classifier.device)
            )
            for name, pattern in patterns.tensors.items()
        }

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> PatternAttribution:
        """Build from a config: without ``patterns``, they are estimated once on the run's own
        images.
        """
        estimator = settings.get("estimator") or usual_estimator(classifier)
        settings = {name: value for name, value in settings.items() if name != "estimator"}
        if "patterns" not in settings:
            if surroundings is None:
                raise InputError(
                    "pattern_attribution needs a pattern file; make one with"
                    " Patterns.estimate(...).save"
                )
            patterns = surroundings.estimated(
                classifier,
                f"patterns_{estimator}",
                lambda path: Patterns.load(path, classifier),
                lambda batches, data: Patterns.estimate(
                    classifier, batches, data=data, estimator=estimator
                ),
            )
            settings = settings | {"patterns": patterns}
        return cls(classifier, **settings)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Attribution of each pixel, (B, H, W)."""
        self.products = {name: product.to(images) for name, product in self.products.items()}
        forward = ForwardPass(self.network.to(images), images)
        start = score_start(self.classifier.objective, forward.logits, targets)
        return Attribution(forward.back(start, self._rule).sum(dim=1))

    def _rule(self, step: Step, arriving: Tensor) -> tuple[Tensor, ...]:
        (x, *_), module = step.inputs, step.module
        if isinstance(module, WEIGHTED):
            return (weighted_transpose(module, x, arriving, self.products[step.name]),)
        if isinstance(module, Add):
            shares = self.products[step.name].view(1, -1, 2, *[1] * (x.ndim - 2)).unbind(dim=2)
            return shares[0] * arriving, shares[1] * arriving
        if isinstance(module, nn.ReLU):
            return (arriving * (x > 0),)
        if isinstance(module, Ceiling):
            return (arriving * module.is_open(x),)
        if isinstance(module, MAX_POOLINGS):
            return (to_positions(arriving, winners(module, x)[1], x.shape),)
        if isinstance(module, Affine):
            return (arriving,)
        return transpose(module, step.inputs, arriving)

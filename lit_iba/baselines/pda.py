"""Prediction difference analysis: how much evidence for the class is lost when a window of the
image is not known.

Zintgraf, Cohen, Adel and Welling, "Visualizing Deep Neural Network Decisions: Prediction Difference
Analysis" (ICLR 2017, arXiv:1702.04595), with the authors' published settings. A window is not
blanked but marginalised out: replaced by samples given the pixels around it, or taken from other
images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_iba.baselines.patches import PatchStatistics
from lit_iba.baselines.window_samplers import ConditionalSampler, MarginalSampler, WindowSampler
from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, Surroundings

REFERENCES = (
    100  # images that marginal samples are taken from when the explainer is built from a config
)


class PDA(Explainer):
    """Prediction difference analysis: mean weight of evidence, in bits, over the windows that cover
    a pixel.

    An image costs ``samples`` forward passes a window: with the defaults and 224 x 224 pixels, 215
    x 215 windows of 10 samples, that is 462,250 (a stride of 5 leaves 19,360; of 10, 5,290).

    Args:
        classifier: The network to explain.
        statistics: Of patches of ``window + 2 * border`` pixels, or a file of them; for the
            conditional sampler.
        references: Images (n, 3, H, W) that windows are taken from; for the marginal sampler.
        sampler: ``"conditional"``: Gaussian given the pixels around; ``"marginal"``: the same
            window of other images.
        window: Side of the windows in pixels.
        border: Pixels around a window on which its samples depend; at the picture's edge, the patch
            is shifted inside.
        stride: Pixels from one window to the next, at most ``window``; the last window ends at the
            picture's edge.
        samples: Of each window.
        laplace: N of the correction p <- (p N + 1) / (N + K), K classes: the number of training
            images that p is taken to rest on.
        forward_batch_size: Images per forward pass.
        seed: Seeds the samples, together with each sample's key.

    Raises:
        InputError: A setting is out of range, or what the sampler needs is missing or does not fit.

    Example:
        >>> from lit_iba.baselines import PDA
        >>> explainer = PDA(classifier, references=images, sampler="marginal", stride=10, samples=2)
        >>> heatmap = explainer.attribute(images, targets)
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([2, 64, 64]), '1')
    """

    name: ClassVar[str] = "pda"
    label: ClassVar[str] = "PDA"
    config_only: ClassVar[tuple[str, ...] | None] = ()
    lengths: ClassVar[tuple[str, ...]] = ("window",)
    signed = True

    def __init__(
        self,
        classifier: FrozenClassifier,
        statistics: PatchStatistics | str | Path | None = None,
        references: Tensor | None = None,
        *,
        sampler: Literal["conditional", "marginal"] = "conditional",
        window: int = 10,
        border: int = 2,
        stride: int = 1,
        samples: int = 10,
        laplace: float = 100_000,
        forward_batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_literals(PDA.__init__, locals())
        check_counts(
            window=window,
            border=border,
            stride=stride,
            samples=samples,
            forward_batch_size=forward_batch_size,
        )
        check_numbers(0, exclusive=True, laplace=laplace)
        if stride > window:
            raise InputError(
                f"stride {stride} is larger than window {window}; some pixels would be in no window"
            )
        self.sampler: WindowSampler
        if sampler == "conditional":
            if statistics is None:
                raise InputError(
                    "the conditional sampler of pda needs statistics; make them with"
                    " PatchStatistics.estimate"
                )
            if not isinstance(statistics, PatchStatistics):
                statistics = PatchStatistics.load(statistics)
            statistics.check(window + 2 * border, classifier.preprocessing)
            self.sampler = ConditionalSampler(statistics, window, border)
        else:
            if references is None:
                raise InputError(
                    "the marginal sampler of pda needs references: images (n, 3, H, W) other than"
                    " the explained"
                )
            self.sampler = MarginalSampler(references, window)
        self.window, self.stride, self.samples = window, stride, samples
        self.laplace, self.forward_batch_size = laplace, forward_batch_size

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> PDA:
        """Build from a config: what the sampler needs comes from the run's own images, if it is not
        given.
        """
        settings = dict(settings)
        if surroundings is not None and settings.get("sampler", "conditional") == "conditional":
            if "statistics" not in settings:
                side = settings.get("window", 10) + 2 * settings.get("border", 2)
                settings["statistics"] = surroundings.estimated(
                    classifier,
                    f"patches_{side}",
                    PatchStatistics.load,
                    lambda batches, data: PatchStatistics.estimate(
                        batches, side, preprocessing=classifier.preprocessing, data=data
                    ),
                )
        elif surroundings is not None and "references" not in settings:
            settings["references"] = surroundings.images(classifier, REFERENCES)
        return cls(classifier, **settings)

    @torch.no_grad()
    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Weight of evidence of every window, averaged over the windows that cover each pixel."""
        height, width = images.shape[-2:]
        if min(height, width) < self.sampler.side:
            raise InputError(
                f"pda looks at patches of {self.sampler.side} pixels, but the images are {height} x"
                f" {width}; use a smaller window"
            )
        tops, lefts = self._starts(height), self._starts(width)
        evidence = self._evidence(self._probabilities_of(images, targets))
        found = evidence.new_zeros(
            len(images), 1, height - self.window + 1, width - self.window + 1
        )
        looked_at = torch.zeros_like(found[:1])
        for top in tops:
            without = self._row_of_windows(images, targets, generators, top, lefts)  # (B, windows)
            found[:, 0, top, lefts] = evidence[:, None] - self._evidence(without)
            looked_at[0, 0, top, lefts] = 1
        ones = evidence.new_ones(1, 1, self.window, self.window)
        return Attribution(
            (F.conv_transpose2d(found, ones) / F.conv_transpose2d(looked_at, ones))[:, 0]
        )

    def _starts(self, length: int) -> list[int]:
        """Where windows begin along a side of the picture."""
        last = length - self.window
        return sorted({*range(0, last + 1, self.stride), last})

    def _evidence(self, probabilities: Tensor) -> Tensor:
        """log2 of the odds, with the Laplace correction."""
        p = (probabilities.double() * self.laplace + 1) / (
            self.laplace + self.classifier.objective.alternatives(self.classifier.num_classes)
        )
        return (p.log2() - (1 - p).log2()).to(probabilities.dtype)

    def _probabilities_of(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.classifier.objective.probability(self.classifier(images), targets)

    def _row_of_windows(
        self,
        images: Tensor,
        targets: Tensor,
        generators: list[torch.Generator],
        top: int,
        lefts: list[int],
    ) -> Tensor:
        """Probability of the target with a window unknown, for the windows that begin in one row of
        pixels, (B, windows).
        """
        # Drawn row by row, so that the numbers depend on the picture's size, but neither on the
        # batch nor on its size.
        windows = torch.stack(
            [
                self.sampler.draw(image, generator, top, lefts, self.samples)
                for image, generator in zip(images, generators, strict=True)
            ]
        ).flatten(0, 2)  # (B * windows * samples, 3, k, k)
        inside = torch.arange(self.window, device=images.device)
        columns = torch.tensor(lefts, device=images.device)[:, None] + inside  # (windows, k)
        probabilities = images.new_empty(len(windows), dtype=torch.float32)
        for jobs in torch.arange(len(windows), device=images.device).split(self.forward_batch_size):
            picture, place = jobs // (len(lefts) * self.samples), jobs // self.samples % len(lefts)
            changed = images[picture]
            rows = changed[:, :, top : top + self.window]
            rows.scatter_(
                3,
                columns[place][:, None, None].expand(-1, images.shape[1], self.window, -1),
                windows[jobs],
            )
            probabilities[jobs] = self._probabilities_of(changed, targets[picture])
        return probabilities.view(len(images), len(lefts), self.samples).mean(dim=2)

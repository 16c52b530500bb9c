"""Per-Sample information bottleneck: for each image, the mask that keeps the class with the fewest
bits.

IBA (Schulz et al., ICLR 2020), section 3.2, table 2 and appendix C. R is computed once; each of the
few Adam steps runs only the layers behind the bottleneck, for all images of the batch and all noise
copies at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_iba.checks import check_taken
from lit_iba.classifier import FrozenClassifier, usual_layer
from lit_iba.classifier.layout import Layout
from lit_iba.classifier.split import Carried, repeat_carried
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Explainer, Surroundings
from lit_iba.heatmap import resize_keeping_total
from lit_iba.iba.auto_beta import search_beta
from lit_iba.iba.bottleneck import (
    NATS_PER_BIT,
    bits_per_position,
    channels_last,
    elements,
    information_nats,
    mask_from_logits,
    require_positions,
)
from lit_iba.iba.masked_feature import MaskedFeature
from lit_iba.iba.noise import NoiseModel
from lit_iba.iba.optimise import GraphedSteps, autocast, optimise_mask
from lit_iba.iba.per_sample_settings import PerSampleSettings, settings_from
from lit_iba.objectives.base import repeat_targets
from lit_iba.randomness import normal_copies
from lit_iba.statistics import FeatureStatistics

CACHED_BYTES = 16 * 2**20  # half of what the cores of a processor usually share


class PerSampleIBA(Explainer):
    """The Per-Sample bottleneck explainer.

    Args:
        classifier: The network to explain.
        layer: Where the bottleneck is inserted: ``"layer2"`` of ResNet-50, ``"features.17"`` of
            VGG-16 (table 2).
        statistics: Feature statistics of that layer, or a file of them.
        seed: Seeds the noise, together with each sample's key.
        preset: ``"default"``, ``"reference"`` (the published library), ``"reference_paper"`` (the
            published evaluation of ResNet-50) or ``"reference_paper_vgg16"`` (that of VGG-16).
        settings: Any of :class:`PerSampleSettings`.

    Raises:
        InputError: Unknown layer or setting, or statistics that belong to something else.

    Example:
        >>> from lit_iba import PerSampleIBA
        >>> explainer = PerSampleIBA(classifier, "layer2", statistics, steps=2, copies=2)
        >>> heatmap = explainer.attribute(images, targets)
        >>> heatmap.values.shape, heatmap.unit
        (torch.Size([2, 64, 64]), 'bits')
        >>> bool((heatmap.values >= 0).all())
        True
    """

    name: ClassVar[str] = "per_sample_iba"
    label: ClassVar[str] = "IBA Per-Sample"
    unit = "bits"

    def __init__(
        self,
        classifier: FrozenClassifier,
        layer: str,
        statistics: FeatureStatistics | str | Path,
        *,
        seed: int = 0,
        preset: str = "default",
        **settings: Any,
    ) -> None:
        super().__init__(classifier, seed=seed)
        self.layer = layer
        self.settings = settings_from(preset, settings)
        self.split = classifier.split(layer)
        if not isinstance(statistics, FeatureStatistics):
            statistics = FeatureStatistics.load(statistics, classifier, layer)
        statistics.check(classifier, layer)
        s = self.settings
        self.noise = NoiseModel.from_statistics(
            statistics,
            kind=s.statistics_kind,
            min_std=s.min_std,
            active_threshold=s.active_threshold,
            inactive=s.inactive,
        )
        self.unit = "bits" if s.unit == "bits" else "1"  # the authors' maps have no unit
        self.tail = (
            torch.compile(self.split.folded_tail, dynamic=True)
            if s.compile
            else self.split.folded_tail
        )
        self._graphed: tuple[Any, _Problem, GraphedSteps] | None = None

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> PerSampleIBA:
        """Build from a config: without ``layer``, it is :func:`usual_layer`; without
        ``statistics``, they are estimated once on the run's own images.
        """
        # Before anything is estimated, which may take minutes.
        names = [field.name for field in fields(PerSampleSettings)]
        check_taken(cls.__init__, settings, cls.name, never=["classifier"], keywords=names)
        layer = usual_layer(classifier, settings.get("layer"))
        settings = settings | {"layer": layer}
        if "statistics" not in settings:
            if surroundings is None:
                raise InputError(
                    "per_sample_iba needs a statistics file; make one with "
                    "FeatureStatistics.estimate"
                )
            settings |= {"statistics": surroundings.statistics(classifier, layer)}
        return cls(classifier, **settings)

    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Optimise the mask of every image of the batch; see :meth:`Explainer.attribute`."""
        together = self._together(images)
        values, undrawn = [], []
        for start in range(0, len(images), together):
            some = slice(start, start + together)
            masked = self.masked_feature(images[some], targets[some], generators[some])
            bits, elsewhere = bits_per_position(masked.nats / NATS_PER_BIT, masked.layout)
            values.append(self._to_pixels(bits, images))
            undrawn += [] if elsewhere is None else [elsewhere]
        return Attribution(torch.cat(values), torch.cat(undrawn) if undrawn else None)

    def _together(self, images: Tensor) -> int:
        """How many images are optimised at once: on a CPU as many as have their copies of Z in its
        cache, which all that is done between two convolutions reads and writes.
        """
        if images.device.type != "cpu":
            return len(images)
        of_one = self.settings.copies * self.noise.mean.numel() * self.noise.mean.element_size()
        return max(1, CACHED_BYTES // of_one)

    def masked_feature(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> MaskedFeature:
        """The optimised mask of every image of the batch, with all that Z is made of."""
        with torch.no_grad():
            r, carried = self.split.head(images)
        layout = self.classifier.layout_of(
            self.layer, r.shape, (images.shape[-2], images.shape[-1])
        )
        require_positions(layout, self.layer)
        self.noise = self.noise.to(r.device)  # once, not with every batch
        noise = self.noise.fit_to(r, layout)
        # Elementwise work wants one order of memory, and the convolutions behind the cut give
        # gradients in this one.
        r, noise = channels_last(r), noise.channels_last()
        alpha, beta = self._optimise(r, carried, targets, generators, noise, layout)
        with torch.no_grad():
            keep, drop = mask_from_logits(alpha, self.settings.smoothing_sigma, layout)
            nats = self._information(r, noise, keep, drop)
        clamp = self.settings.relu_clamp
        return MaskedFeature(r, keep, drop, nats, noise, layout, carried, self.tail, clamp, beta)

    def _information(self, r: Tensor, noise: NoiseModel, keep: Tensor, drop: Tensor) -> Tensor:
        """Nats per element of R, (B, *R)."""
        return information_nats((r - noise.mean) / noise.std, keep, drop) * noise.active

    def _optimise(
        self,
        r: Tensor,
        carried: Carried,
        targets: Tensor,
        generators: list[torch.Generator],
        noise: NoiseModel,
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:
        """alpha after the last update that is read (B, *R), and beta (B,)."""
        s = self.settings
        problem, run = self._prepared(r, carried, targets, generators, noise, layout)
        if s.beta != "auto":
            return run(), problem.beta
        states = [generator.get_state() for generator in generators]

        def solve(beta: Tensor) -> Tensor:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)  # the same noise, whatever beta
            problem.beta.copy_(beta)
            return run()

        with torch.no_grad():
            logits = self.tail(r, carried)
        own = self.classifier.objective.probability(logits, targets).to(r.dtype)
        wanted = own.clamp_max(s.wanted_probability)
        return search_beta(solve, problem.probability, wanted, s.beta_probes)

    def _prepared(
        self,
        r: Tensor,
        carried: Carried,
        targets: Tensor,
        generators: list[torch.Generator],
        noise: NoiseModel,
        layout: Layout,
    ) -> tuple[_Problem, Callable[[], Tensor]]:
        """The problem of a batch, and what gives alpha after all updates with its beta."""
        s = self.settings
        start = torch.full_like(r, s.initial_alpha)
        steps = s.steps if s.read_after == "T" else s.steps - 1
        if not s.cuda_graph:
            plain = _Problem(self, r, carried, targets, noise, layout)
            plain.generators = generators
            return plain, lambda: optimise_mask(
                start,
                plain.loss,
                plain.draw,
                steps=steps,
                learning_rate=s.learning_rate,
                on_step=lambda done: self._told(done, steps),
            )
        if r.device.type != "cuda":
            raise InputError(
                f"cuda_graph needs a CUDA device, but the images are on {r.device}; leave it out"
            )
        # One graph is kept, of the last shape: batches of a run have one shape, but for the last.
        key = [(t.shape, t.dtype, t.device) for t in (r, *carried) if isinstance(t, Tensor)]
        if self._graphed is None or self._graphed[0] != key:
            self._graphed = None  # frees its memory before more is taken
            problem = _Problem(self, r, carried, targets, noise, layout)
            problem.generators = generators
            states = [g.get_state() for g in generators]
            steps_graph = GraphedSteps(start, problem.loss, problem.draw, s.learning_rate)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)  # what the warm-up drew is drawn again
            self._graphed = key, problem, steps_graph
        _, problem, graphed = self._graphed
        problem.load(r, carried, targets)
        problem.generators = generators
        return problem, lambda: graphed.run(start, steps)

    def _told(self, done: int, steps: int) -> None:
        if self.on_step is not None:
            self.on_step(f"bottleneck at {self.layer}", done, steps)

    def _to_pixels(self, bits: Tensor, images: Tensor) -> Tensor:
        maps = resize_keeping_total(
            bits, (images.shape[-2], images.shape[-1]), self.settings.resize_edge
        )
        if self.settings.unit == "bits":
            return maps
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        return (maps - low) / (high - low).clamp_min(1e-12)


class _Problem:
    """What the steps of one batch read: R, what is carried, targets, and the noise, which is drawn
    in place.

    A captured graph finds everything at the same place for the next batch, which :meth:`load`
    brings.
    """

    generators: list[torch.Generator]

    def __init__(
        self,
        iba: PerSampleIBA,
        r: Tensor,
        carried: Carried,
        targets: Tensor,
        noise: NoiseModel,
        layout: Layout,
    ) -> None:
        s = iba.settings
        self.iba, self.noise, self.layout = iba, noise, layout
        self.r = r.clone() if s.cuda_graph else r
        self.beta = r.new_full((len(r),), 0.0 if s.beta == "auto" else s.beta)
        self.carried = repeat_carried(carried, s.copies)
        self.targets = repeat_targets(targets, s.copies)
        # Drawn in the order of memory, into tensors that stay: what is moved about costs as much as
        # the drawing.
        in_memory = r.movedim(1, -1) if r.ndim == 4 else r
        self.drawn = r.new_empty(s.copies, *in_memory.shape)
        self.own = None if len(r) == 1 else self.drawn.new_empty(s.copies, *in_memory.shape[1:])
        self.unit_noise = self.drawn.movedim(-1, 2) if r.ndim == 4 else self.drawn

    def load(self, r: Tensor, carried: Carried, targets: Tensor) -> None:
        """Take another batch of the same shapes."""
        self.r.copy_(r)
        self.targets.copy_(repeat_targets(targets, self.iba.settings.copies))
        for mine, other in zip(
            self.carried, repeat_carried(carried, self.iba.settings.copies), strict=True
        ):
            if isinstance(mine, Tensor):
                mine.copy_(other)

    def draw(self) -> None:
        """Standard normal numbers for a step, each image's from its own generator."""
        copies, shape = len(self.drawn), self.drawn.shape[2:]
        normal_copies(self.generators, copies, shape, out=self.drawn, scratch=self.own)

    def _outputs(self, keep: Tensor, drop: Tensor) -> Tensor:
        """(copies * B, ...)."""
        z = self.noise.restrict(self.r, keep, drop, self.unit_noise)  # (copies, B, *R)
        z = z.clamp_min(0) if self.iba.settings.relu_clamp else z
        with autocast(self.r.device, self.iba.settings.precision):
            logits = self.iba.tail(z.flatten(0, 1), self.carried)
        return logits.float()

    def loss(self, alpha: Tensor) -> Tensor:
        """The objective's loss (cross-entropy, for classes) and weighted information, summed over
        images.
        """
        s = self.iba.settings
        keep, drop = mask_from_logits(alpha, s.smoothing_sigma, self.layout)
        outputs = self._outputs(keep, drop)
        loss = self.iba.classifier.objective.loss(outputs, self.targets).sum() / s.copies
        nats = self.iba._information(self.r, self.noise, keep, drop)
        return loss + (self.beta * nats.mean(dim=elements(nats))).sum()

    @torch.no_grad()
    def probability(self, alpha: Tensor) -> Tensor:
        """Of each target, the mean over copies of fresh noise, (B,)."""
        self.draw()
        keep, drop = mask_from_logits(alpha, self.iba.settings.smoothing_sigma, self.layout)
        outputs = self._outputs(keep, drop)
        of_copies = self.iba.classifier.objective.probability(outputs, self.targets)
        return of_copies.view(self.iba.settings.copies, -1).mean(dim=0)

"""What a reader may ask the classifier: what it sees with pixels removed, and for a map of its own
settings.

Removal is that of the metrics: their fills, their ranks, their tiles and the same fast copy of the
network, so that a point of a curve and an answer here are one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier import FrozenClassifier, passed_feature_maps, usual_layer
from lit_iba.classifier.preprocessing import drawn
from lit_iba.errors import InputError
from lit_iba.evaluation.surroundings import OwnStatistics, StoredStatistics
from lit_iba.explainer import OnStep, Surroundings, build_explainer
from lit_iba.heatmap import Heatmap
from lit_iba.limits import check_limit
from lit_iba.metrics import Degradation, Deletion
from lit_iba.perturbation import removal_ranks, tile_sums, with_tiles_removed

Fill = Literal["zero", "mean", "blur"]
FILLS: dict[Fill, Degradation | Deletion] = {
    "zero": Degradation(baseline="zero"),
    "mean": Degradation(baseline="mean_of_image"),
    "blur": Deletion(baseline="blur"),
}
TOP = 5


@dataclass(frozen=True)
class Removal:
    """Which pixels of a picture are removed, and what they become.

    Args:
        order: Whether the ``"most"`` or the ``"least"`` relevant tiles go first.
        fraction: Of the tiles, in [0, 1].
        fill: ``"zero"`` after normalisation (the data set's mean colour) and ``"mean"``, the
            picture's own, as degradation has them; ``"blur"`` as deletion has it.
        tile: Side of a tile in pixels.

    Raises:
        InputError: A setting is out of range.

    Example:
        >>> from lit_iba.view import Removal
        >>> Removal(fraction=0.25).count(tiles=64)
        16
    """

    order: Literal["most", "least"] = "most"
    fraction: float = 0.0
    fill: Fill = "zero"
    tile: int = 1

    def __post_init__(self) -> None:
        check_literals(self)
        check_numbers(0, fraction=self.fraction)
        check_counts(tile=self.tile)
        check_limit("SIDE", self.tile, "tile")
        if self.fraction > 1:
            raise InputError(f"fraction is {self.fraction}; it must be a number from 0 to 1")

    def count(self, tiles: int) -> int:
        """How many of the tiles are gone."""
        return round(self.fraction * tiles)


@dataclass(frozen=True)
class Seen:
    """What the classifier says of a picture.

    Args:
        top: The most probable classes with their probabilities, best first; empty where the
            objective knows no classes.
        target: What is explained, in words.
        probability: Of the target.
        picture: What the classifier got, uint8 (3, H, W).
        removed: How many of the tiles are gone.
        tiles: How many there are.
    """

    top: list[tuple[str, float]]
    target: str
    probability: float
    picture: Tensor
    removed: int
    tiles: int


class LiveClassifier:
    """A classifier with the pictures that it is asked about.

    Args:
        classifier: The frozen classifier.
        pictures: uint8 (N, C, H, W).
        keys: Name of each picture, from which random numbers follow; None for its own content.
        targets: What is explained in each, (N, ...); None for what the classifier itself says.
        stored: Where feature statistics are kept; None for those of each picture itself.

    Example:
        >>> import torch
        >>> from lit_iba.view import LiveClassifier, Removal
        >>> pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
        >>> live = LiveClassifier(classifier, pictures)
        >>> seen = live.removed(0, torch.rand(64, 64), Removal(fraction=0.5, tile=8))
        >>> len(seen.top), seen.removed, seen.tiles
        (5, 32, 64)
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        pictures: Tensor,
        keys: list[str] | None = None,
        targets: Tensor | None = None,
        stored: StoredStatistics | None = None,
    ) -> None:
        self.classifier, self.pictures, self.keys = classifier, pictures, keys
        self.targets = (
            torch.cat([classifier.targets(classifier.images(one[None])).cpu() for one in pictures])
            if targets is None
            else targets
        )
        self.stored = stored
        self.layers = list(passed_feature_maps(classifier))  # where a bottleneck can stand

    @cached_property
    def layer(self) -> str:
        """Where a bottleneck goes if nobody says; empty where none can stand."""
        return usual_layer(self.classifier) if self.layers else ""

    def image(self, picture: int) -> Tensor:
        """A picture as the classifier takes it, (1, C, H, W)."""
        return self.classifier.images(self.pictures[picture : picture + 1])

    def described(self, picture: int) -> str:
        """What is explained in a picture."""
        names = self.classifier.class_names
        return self.classifier.objective.described(self.targets[picture], names)

    @torch.inference_mode()
    def removed(self, picture: int, heatmap: Tensor, removal: Removal) -> Seen:
        """What the classifier sees with pixels removed.

        Args:
            picture: Its number.
            heatmap: Whose order the tiles go in, float (H, W).
            removal: How many, and what they become.
        """
        classifier, image = self.classifier, self.image(picture)
        sums = tile_sums(heatmap[None].to(image.device), removal.tile)
        count = removal.count(sums.shape[1])
        gone = removal_ranks(sums, removal.order == "most") < count  # (1, tiles)
        left = with_tiles_removed(image, FILLS[removal.fill].fill(image), gone, removal.tile)
        outputs = classifier.folded()(left)
        target = self.targets[picture : picture + 1].to(outputs.device)
        return Seen(
            top=self._top(outputs),
            target=self.described(picture),
            probability=float(classifier.objective.probability(outputs, target)),
            picture=drawn(classifier.preprocessing.denormalize(left.float().cpu()))[0],
            removed=count,
            tiles=sums.shape[1],
        )

    def _top(self, outputs: Tensor) -> list[tuple[str, float]]:
        classes, objective = self.classifier.num_classes, self.classifier.objective
        if not classes or outputs.ndim != 2:
            return []
        asked = torch.arange(classes, device=outputs.device)
        probabilities = objective.probability(outputs.expand(classes, -1), asked)
        best = probabilities.topk(min(TOP, classes))
        names = self.classifier.class_names
        return [
            (names[k], p) for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def explained(
        self, picture: int, explainer: str, settings: dict[str, Any], on_step: OnStep
    ) -> tuple[Heatmap, bool]:
        """A map by an explainer of any settings, and whether its statistics are of this picture
        alone.

        Args:
            picture: Its number.
            explainer: Name or class path.
            settings: Of the explainer.
            on_step: Told of every step; what it raises ends the work.

        Raises:
            InputError: A name or setting is wrong.
        """
        image = self.image(picture)
        own = OwnStatistics(image)
        made = build_explainer(
            explainer, self.classifier, settings, self._surroundings(own, settings)
        )
        made.on_step = on_step
        target = self.targets[picture : picture + 1].to(image.device)
        keys = None if self.keys is None else self.keys[picture : picture + 1]
        heatmap = made.attribute(image, target, keys=keys)
        return heatmap.cpu(), bool(own.layers)

    def _surroundings(self, own: OwnStatistics, settings: dict[str, Any]) -> Surroundings:
        """Statistics of a data set, where they are kept or can be measured."""
        if self.stored is None:
            return own
        kept = self.stored.folder / f"{str(settings.get('layer')).replace('/', '_')}.safetensors"
        there = self.stored.data is not None or "layer" not in settings or kept.is_file()
        return self.stored if there else own

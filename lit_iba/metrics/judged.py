"""What a metric judges, as one object: a checked batch of heatmaps and all that belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer, Surroundings, build_explainer
from lit_iba.perturbation import Ties
from lit_iba.randomness import content_keys


@dataclass(frozen=True)
class Subject:
    """The explainer that is judged, and how to build it for another classifier.

    Args:
        explainer: It made the heatmaps.
        build: From a classifier, and where its statistics come from, to the same explainer of that
            classifier.
        surroundings: Where the explainer's own statistics came from.

    Example:
        >>> from lit_iba import build_explainer
        >>> from lit_iba.metrics import Subject
        >>> explainer = build_explainer("smoothgrad", classifier, {"samples": 4})
        >>> subject = Subject.named(explainer, "smoothgrad", {"samples": 4})
        >>> subject.build(classifier, None) is explainer  # the same kind, built again
        False
    """

    explainer: Explainer
    build: Callable[[FrozenClassifier, Surroundings | None], Explainer]
    surroundings: Surroundings | None = None

    @classmethod
    def named(
        cls,
        explainer: Explainer,
        name: str,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> Subject:
        """An explainer that :func:`build_explainer` made of a name and settings."""
        return cls(
            explainer,
            lambda classifier, found: build_explainer(name, classifier, settings, found),
            surroundings,
        )


@dataclass(frozen=True)
class Judged:
    """A checked batch, as :meth:`HeatmapMetric.judge` hands it to its ``score_rows``.

    A metric reads what it needs and need not know the rest.

    Args:
        images: Normalised images, float (B, C, H, W).
        targets: Class that each heatmap explains, int64 (B,), or what the classifier's objective
            has in its place.
        heatmaps: Attribution, finite float32 (B, H, W) on the images' device.
        object_mask: Which pixels belong to the object, bool (B, H, W); None where the data do not
            say.
        keys: Names of the samples; None where the caller gave none.
        shared: What the metric's ``shared_scores`` gave for these images and targets.
        others: Heatmaps of other images by the same explainer, (B, ``others_wanted``, H, W).
        subject: The explainer that made the heatmaps.

    Example:
        >>> import torch
        >>> from lit_iba.metrics import Judged
        >>> judged = Judged(images, targets, torch.ones(2, 64, 64))
        >>> len(judged), judged.heatmaps.shape, judged.object_mask
        (2, torch.Size([2, 64, 64]), None)
    """

    images: Tensor
    targets: Tensor
    heatmaps: Tensor
    object_mask: Tensor | None = None
    keys: Sequence[str] | None = None
    shared: Tensor | None = None
    others: Tensor | None = None
    subject: Subject | None = None

    def __len__(self) -> int:
        return len(self.images)

    def needed(self, name: Literal["object_mask", "shared", "others"]) -> Tensor:
        """A field that may be None, where the metric cannot do without it.

        Raises:
            InputError: It was not given.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise InputError(f"this metric needs {name}; give it to update()")
        return value

    def tie_keys(self, ties: Ties, seed: int) -> list[str] | None:
        """What the order of each image's equal tiles follows from; None for reading order."""
        if ties == "reading_order":
            return None
        return [f"{seed}/{key}" for key in self.keys or content_keys(self.images)]


def check_heatmaps(heatmaps: Tensor, images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
    """The heatmaps as a detached float tensor, or an error that says which one is wrong."""
    wanted = (len(images), *images.shape[-2:])
    if not isinstance(heatmaps, Tensor) or tuple(heatmaps.shape) != wanted:
        given = tuple(heatmaps.shape) if isinstance(heatmaps, Tensor) else type(heatmaps).__name__
        raise InputError(
            f"heatmaps must be a tensor (B, H, W) = {wanted}, as the images are; got {given}"
        )
    finite = torch.isfinite(heatmaps).flatten(1).all(dim=1)
    if not finite.all():
        bad = [
            keys[i] if keys is not None else str(i) for i in (~finite).nonzero().flatten().tolist()
        ]
        raise InputError(
            f"the heatmaps of {', '.join(bad[:5])} contain NaN or infinity; "
            "check the explainer that made them"
        )
    return heatmaps.detach().float()


def check_object_mask(
    object_mask: Tensor | None, images: Tensor, needed_by: str | bool = False
) -> Tensor | None:
    """The object mask as bool on the images' device, or an error where it is missing or does not
    fit.
    """
    if object_mask is None:
        if needed_by:
            raise InputError(
                f"{needed_by} needs object_mask, bool (B, H, W); "
                "give data with bounding boxes or masks"
            )
        return None
    if object_mask.shape != (len(images), *images.shape[-2:]):
        raise InputError(
            f"object_mask has shape {tuple(object_mask.shape)}, "
            f"but the images need (B, H, W) = {(len(images), *images.shape[-2:])}"
        )
    return object_mask.to(images.device, torch.bool)


def check_others(others: Tensor | None, heatmaps: Tensor, wanted: int, needed_by: str) -> Tensor:
    """Heatmaps of other images as the heatmaps' dtype and device, (B, wanted, H, W)."""
    shape = (len(heatmaps), wanted, *heatmaps.shape[1:])
    if others is None or tuple(others.shape) != shape or not torch.isfinite(others).all():
        given = None if others is None else f"values of shape {tuple(others.shape)}"
        raise InputError(
            f"{needed_by} compares with heatmaps of other images: give others, "
            f"finite values of shape {shape}; got {given}"
        )
    return others.detach().to(heatmaps)

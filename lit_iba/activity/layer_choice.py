"""How many of a network's top layers to average, chosen on images that nothing else is measured on.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", figure 6: which
aggregate is best differs from network to network (all layers of VGG-16, the top two of ResNet-50),
and is read off the decision flip. Done here by itself, on images of the user's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from lit_iba.activity.decomposition import Decomposition
from lit_iba.activity.detached import Gates
from lit_iba.activity.layers import NetworkLayers
from lit_iba.activity.maps import Upsampling, positions, saliency
from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Surroundings
from lit_iba.files import whole_file
from lit_iba.metrics.base import mean_and_error
from lit_iba.metrics.decision_flip import DecisionFlip, first_flips, look_grid, removed_share
from lit_iba.perturbation import removal_ranks
from lit_iba.randomness import seed_for

AUTO_IMAGES = 64
LOOKS, FIRST_LOOK = 40, 50  # of the geometric grid, as in the configs of the paper's figures


class LayerChoice:
    """What the aggregate of the top 1, 2, ... layers scored on some images, and which was best.

    Args:
        layers: The network's layers, from the image upwards.
        scores: Delta e- of the aggregate of so many layers from the top, (layers, images), as
            :class:`~lit_iba.metrics.DecisionFlip` defines it, with the map of one other image as
            the noise.
        identity: Of the classifier and the images, and the settings.

    Attributes:
        best: How many layers from the top have the largest mean; of equals the fewest.
        ahead: By how much these are better than all layers, image by image, and the standard error
            of that.
        count: How many layers to average: the best, if ``ahead`` is more than twice its error;
            else all of them, as for a network of which nothing is known.

    Example:
        >>> from lit_iba.activity import ActivityAttribution, LayerChoice
        >>> choice = LayerChoice.estimate(classifier, [images])
        >>> explainer = ActivityAttribution(classifier, layers=choice.count)
        >>> len(explainer.layers) == choice.count
        True
    """

    def __init__(self, layers: Sequence[str], scores: Tensor, identity: dict[str, Any]) -> None:
        self.layers, self.scores, self.identity = list(layers), scores, identity
        self.best = 1 + int(scores.nanmean(dim=1).argmax())
        ahead, error = mean_and_error(self._known(self.best) - self._known(len(self.layers)))
        self.ahead = float(ahead), float(error)
        self.count = self.best if self.ahead[0] > 2 * self.ahead[1] else len(self.layers)

    def __str__(self) -> str:
        best, error = mean_and_error(self._known(self.best))
        said = (
            f"the top {self.best} of {len(self.layers)} layers have the largest delta e-,"
            f" {best:.3f} ± {error:.3f} on {self.scores.shape[1]} images"
        )
        if self.best == len(self.layers):
            return said
        ahead = f"by {self.ahead[0]:.3f} ± {self.ahead[1]:.3f}, image by image"
        if self.count == self.best:
            return f"{said}, more than all of them {ahead}"
        return f"{said}; it is not separated from that of all layers ({ahead}), which are averaged"

    def _known(self, count: int) -> Tensor:
        """Scores of an aggregate, without those of pictures that have nothing to lose."""
        return self.scores[count - 1][~self.scores.isnan().any(dim=0)]

    @classmethod
    def estimate(
        cls,
        classifier: FrozenClassifier,
        batches: Iterable[Tensor],
        *,
        images: int = AUTO_IMAGES,
        network_layers: Sequence[str] | None = None,
        upsampling: Upsampling = "bilinear",
        gates: Gates = "differentiated",
        forward_batch_size: int = 16,
        data: str = "",
        progress: bool = False,
    ) -> LayerChoice:
        """Judge every aggregate of unsigned maps, for the classes that the classifier predicts.

        Args:
            classifier: The network.
            batches: Normalised images (B, 3, H, W), other ones than those that are to be explained.
            images: How many of them are judged, drawn from all; each costs about 80 forward passes
                a layer, or fewer where decisions flip early.
            network_layers: As of :class:`ActivityAttribution`, and so are ``upsampling`` and
                ``gates``.
            upsampling: See there.
            gates: See there.
            forward_batch_size: Images per forward pass.
            data: What to call the images.
            progress: Whether to show a bar.

        Raises:
            InputError: There are fewer than two images, or the network cannot be traced.
        """
        check_literals(LayerChoice.estimate.__func__, locals())  # type: ignore[attr-defined]
        check_counts(2, images=images)
        drawn = _drawn(batches, images)
        if len(drawn) < 2:
            raise InputError(
                f"layers are chosen on {len(drawn)} images; give two or more, since each map is"
                " compared with another image's"
            )
        known = NetworkLayers.of(classifier, network_layers, gates)
        decomposition = Decomposition(known, known.names)
        parts = drawn.split(forward_batch_size)
        targets = torch.cat([classifier.targets(part) for part in parts])
        maps = torch.cat(
            [
                _aggregates(decomposition, part, wanted, known.names, upsampling)
                for part, wanted in zip(parts, targets.split(forward_batch_size), strict=True)
            ]
        )  # (N, layers, H, W)
        decisions = DecisionFlip(forward_batch_size=forward_batch_size).shared_scores(
            classifier, drawn, targets
        )
        scores = [
            _delta_e_minus(classifier, drawn, targets, decisions, of_count, forward_batch_size)
            for of_count in track(
                maps.unbind(dim=1), "aggregates of layers", transient=True, disable=not progress
            )
        ]
        settings = {"network_layers": known.names, "upsampling": upsampling, "gates": gates}
        identity = {**classifier.identity, "data": data, "images": images, "settings": settings}
        return cls(known.names, torch.stack(scores).cpu(), identity)

    def save(self, path: str | Path) -> None:
        """Write as safetensors, with everything else in its metadata, by atomic rename."""
        metadata = {
            "kind": "lit_iba.LayerChoice",
            "identity": json.dumps(self.identity),
            "layers": json.dumps(self.layers),
        }
        with whole_file(path) as part:
            save_file({"scores": self.scores.contiguous()}, part, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, classifier: FrozenClassifier) -> LayerChoice:
        """Read a choice back and check that it was made for this classifier.

        Raises:
            InputError: The file is missing, damaged, or of another classifier.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") != "lit_iba.LayerChoice":
                    raise InputError(
                        f"{path} is a safetensors file, but holds no choice of layers; give another"
                        " file"
                    )
                scores = file.get_tensor("scores")
            found = cls(json.loads(metadata["layers"]), scores, json.loads(metadata["identity"]))
        except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
            raise InputError(
                f"choice of layers {path} is missing, damaged or cut short ({error}); delete it,"
                " and it is made again"
            ) from error
        classifier.check_identity(found.identity, str(path))
        return found


def chosen_once(
    classifier: FrozenClassifier, settings: dict[str, Any], surroundings: Surroundings
) -> LayerChoice:
    """The choice for these settings of :meth:`LayerChoice.estimate`, made on a run's images where
    it is not on disk yet.
    """
    # Other settings, another file.
    suffix = f"_{seed_for('layers', json.dumps(settings)):x}" if settings else ""
    choice = surroundings.estimated(
        classifier,
        "activity_layers" + suffix,
        lambda path: LayerChoice.load(path, classifier),
        lambda batches, data: LayerChoice.estimate(
            classifier, batches, data=data, progress=True, **settings
        ),
    )
    rank_zero_info(f"{classifier.name}: {choice}")
    return choice


def _drawn(batches: Iterable[Tensor], count: int) -> Tensor:
    """So many of the images, each as likely as any other, whatever the batches' sizes."""
    every = (image for batch in batches for image in batch)
    drawn, chance = list(islice(every, count)), random.Random(0)
    for number, image in enumerate(every, start=count):
        place = chance.randint(0, number)
        if place < count:
            drawn[place] = image
    return torch.stack(drawn) if drawn else torch.empty(0)


def _aggregates(
    decomposition: Decomposition,
    images: Tensor,
    targets: Tensor,
    names: Sequence[str],
    upsampling: Upsampling,
) -> Tensor:
    """Sums of the saliency maps of the top 1, 2, ... layers, (B, layers, H, W): of the same order
    as their means.
    """
    found, size = decomposition.attribute(images, targets), (images.shape[-2], images.shape[-1])
    maps = [
        saliency(positions(found, name, decomposition.classifier), size, upsampling)
        for name in reversed(names)
    ]
    return torch.stack(maps, dim=1).cumsum(dim=1)


def _delta_e_minus(
    classifier: FrozenClassifier,
    images: Tensor,
    targets: Tensor,
    decisions: Tensor,
    maps: Tensor,
    forward_batch_size: int,
) -> Tensor:
    """E- of maps (N, H, W) less that of the map of the next image (equations 17 and 18), (N,)."""
    flat = maps.flatten(1)
    both = torch.stack([flat, flat.roll(1, dims=0)], dim=1)  # (N, 2, H * W)
    steps = look_grid(flat.shape[1], "geometric", 0, LOOKS, FIRST_LOOK).to(images.device)
    found = []
    for i in torch.arange(len(images), device=images.device).split(forward_batch_size):
        ranks = removal_ranks(both[i].flatten(0, 1), False).view_as(both[i])
        flips = first_flips(
            classifier, images[i], targets[i], decisions[i], ranks, steps, forward_batch_size
        )
        e = removed_share(images[i], ranks, steps[flips.clamp_max(len(steps) - 1)])
        found.append(e[:, 0] - e[:, 1])
    return torch.cat(found)

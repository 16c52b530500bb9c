"""Gaussian statistics of small patches of images, one Gaussian a colour channel.

Zintgraf et al., "Visualizing Deep Neural Network Decisions: Prediction Difference Analysis" (ICLR
2017), section 3.1. One pass over a stream of images, float64, mergeable; saved with what it was
measured on. What they are for is in ``window_samplers``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError
from lit_iba.files import whole_file
from lit_iba.randomness import content_keys, sample_generators

KIND = "lit_iba.PatchStatistics"


class PatchStatistics:
    """Mean, covariance and range of square patches of normalised images, each colour channel on its
    own.

    Args:
        side: Of the patches in pixels.
        channels: Of the images.
        identity: What they are measured on: preprocessing, data.

    Example:
        >>> from lit_iba.baselines import PatchStatistics
        >>> patches = PatchStatistics(side=4)
        >>> tiles = images.unfold(2, 4, 4).unfold(3, 4, 4)
        >>> patches.update(tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        >>> patches.count
        512
        >>> patches.covariance.shape  # of the 16 pixels of each colour
        torch.Size([3, 16, 16])
    """

    def __init__(
        self, side: int, channels: int = 3, identity: dict[str, Any] | None = None
    ) -> None:
        check_counts(side=side, channels=channels)
        self.side, self.identity = side, identity or {}
        elements = side * side
        self.count = 0
        self.mean = torch.zeros(channels, elements, dtype=torch.float64)
        self.scatter = torch.zeros(
            channels, elements, elements, dtype=torch.float64
        )  # of the deviations from the mean
        self.low = torch.full((channels, elements), torch.inf, dtype=torch.float64)
        self.high = torch.full((channels, elements), -torch.inf, dtype=torch.float64)

    @classmethod
    @torch.no_grad()
    def estimate(
        cls,
        images: Tensor | Iterable[Tensor],
        side: int,
        *,
        per_image: int = 20,
        preprocessing: Preprocessing | None = None,
        data: str = "",
        batch_size: int = 32,
    ) -> PatchStatistics:
        """Measure patches at random places of images; the places follow from each image's content.

        Args:
            images: Normalised images, one tensor (N, C, H, W) or an iterable of batches.
            side: Of the patches in pixels.
            per_image: Patches taken from each image; with 1,000 images, 20 make up the authors'
                20,000.
            preprocessing: How the images were normalised, for the record.
            data: What the images are, for the record.
            batch_size: Images per step, where one tensor is given.

        Raises:
            InputError: Images smaller than a patch, or too few patches for a covariance.
        """
        check_counts(per_image=per_image)
        identity = {
            "preprocessing": preprocessing.to_dict() if preprocessing else None,
            "data": data,
        }
        batches = iter(images.split(batch_size) if isinstance(images, Tensor) else images)
        first = next(batches, torch.zeros(0, 3, side, side))
        found = cls(side, first.shape[1], identity)
        for batch in chain([first], batches):
            if min(batch.shape[-2:]) < side:
                raise InputError(
                    f"patches of {side} x {side} pixels do not fit into images of"
                    f" {tuple(batch.shape[-2:])}; give larger images, or a smaller window"
                )
            for image, generator in zip(
                batch, sample_generators(0, content_keys(batch), torch.device("cpu")), strict=True
            ):
                top, left = (
                    torch.randint(length - side + 1, (per_image, 1, 1), generator=generator).to(
                        image.device
                    )
                    for length in image.shape[-2:]
                )
                offset = torch.arange(side, device=image.device)
                found.update(image[:, top + offset[:, None], left + offset].transpose(0, 1))
        found.require_enough()
        return found

    def update(self, patches: Tensor) -> None:
        """Add patches (N, C, side, side)."""
        if not len(patches):
            return
        values = patches.detach().double().cpu().flatten(2).transpose(0, 1)  # (C, N, elements)
        part = PatchStatistics(self.side, len(values))
        part.count, part.mean = values.shape[1], values.mean(dim=1)
        centred = values - part.mean[:, None]
        part.scatter = centred.mT @ centred
        part.low, part.high = values.amin(dim=1), values.amax(dim=1)
        self.merge(part)

    def merge(self, other: PatchStatistics) -> None:
        """Add another stream's statistics; the order of merging does not matter (to float64
        rounding).
        """
        if not other.count:
            return
        total, delta = self.count + other.count, other.mean - self.mean
        self.scatter += other.scatter + delta[:, :, None] * delta[:, None] * (
            self.count * other.count / total
        )
        self.mean += delta * (other.count / total)
        self.low, self.high = (
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance per channel, float64 (C, side^2, side^2)."""
        return self.scatter / max(self.count - 1, 1)

    def require_enough(self) -> None:
        """Refuse statistics of fewer patches than a covariance needs."""
        if self.count <= self.side**2:
            raise InputError(
                f"{self.count} patches are too few for a covariance of {self.side} x {self.side}"
                f" pixels; give more than {self.side**2} (the authors take 20000)"
            )

    def save(self, path: str | Path) -> None:
        """Write as safetensors, with the identity in its metadata, by atomic rename."""
        tensors = {name: getattr(self, name) for name in ("mean", "scatter", "low", "high")}
        metadata = {
            "kind": KIND,
            "count": str(self.count),
            "side": str(self.side),
            "identity": json.dumps(self.identity),
        }
        with whole_file(path) as part:
            save_file(tensors, part, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> PatchStatistics:
        """Read statistics back.

        Raises:
            InputError: The file is missing, damaged or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"statistics file {path} does not exist; make it with"
                " PatchStatistics.estimate(...).save(path)"
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") != KIND:
                    raise InputError(
                        f"{path} is a safetensors file, but holds no patch statistics; give another"
                        " file"
                    )
                mean = file.get_tensor("mean")
                loaded = cls(int(metadata["side"]), len(mean), json.loads(metadata["identity"]))
                loaded.count, loaded.mean = int(metadata["count"]), mean
                for name in ("scatter", "low", "high"):
                    setattr(loaded, name, file.get_tensor(name))
        except (safetensors.SafetensorError, KeyError, OSError) as error:
            raise InputError(
                f"statistics file {path} is damaged or cut short ({error}); estimate it again"
            ) from error
        return loaded

    def check(self, side: int, preprocessing: Preprocessing) -> None:
        """Refuse statistics of patches of another size, or of images normalised otherwise."""
        if self.side != side:
            raise InputError(
                f"the statistics are of patches of {self.side} pixels, but window + 2 * border is"
                f" {side}; estimate them again"
            )
        known = self.identity.get("preprocessing")
        for name in ("mean", "std"):
            if known and list(known[name]) != list(getattr(preprocessing, name)):
                raise InputError(
                    f"the statistics are of images normalised with {name} {known[name]}, but the"
                    f" classifier takes {list(getattr(preprocessing, name))}; estimate them again"
                )
        self.require_enough()

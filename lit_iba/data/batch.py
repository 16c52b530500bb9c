"""From raw samples to batches: the dictionary that every loader of the project yields.

``picture`` uint8 (B, 3, H, W); ``label`` int64 (B,), -1 where unknown; ``object_mask`` bool (B, H, W), all False where
there is no box; ``key`` list of str; ``weight`` float32 (B,), 1 where the slot holds a picture, 0 where it is padding
or could not be decoded; ``corrupt`` int64 (B,), 1 where it could not be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lit_iba.data.decode import PICTURE_EXTENSIONS, decode_boxes, decode_label, decode_mask, decode_photograph
from lit_iba.data.plan import generator_for
from lit_iba.data.tar_samples import RawSample
from lit_iba.data.view import View, central_pixel_mask, random_view
from lit_iba.errors import InputError
from lit_iba.preprocessing import Preprocessing

Batch = dict[str, Any]


@dataclass(frozen=True)
class Hole:
    """A slot whose sample cannot be had, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class BatchMaker:
    """Decodes samples and stacks them.

    Args:
        preprocessing: Size and crop of the pictures.
        num_classes: Labels outside 0..num_classes-1 are errors; None accepts any.
        augment: Whether pictures are random crops, mirrored or not, drawn from (seed, epoch, key).
        seed: See ``augment``.
    """

    preprocessing: Preprocessing
    num_classes: int | None = None
    augment: bool = False
    seed: int = 0

    def __call__(self, slots: Sequence[RawSample | Hole | None], epoch: int = 0) -> tuple[Batch, list[Hole]]:
        """Make one batch.

        Args:
            slots: A sample, a hole, or None for padding.
            epoch: Number of the epoch, for augmentation.

        Returns:
            The batch, and its holes with their reasons.

        Raises:
            InputError: A label is not a class. (A sample that cannot be decoded becomes a hole.)
        """
        batch = self._empty(len(slots))
        holes = []
        for i, slot in enumerate(slots):
            if slot is None:
                continue
            batch["key"][i] = slot.key
            outcome = self._fill(batch, i, slot, epoch) if isinstance(slot, RawSample) else slot
            if outcome is not None:
                batch["corrupt"][i] = 1
                holes.append(outcome)
        return batch, holes

    def _empty(self, count: int) -> Batch:
        side = self.preprocessing.crop
        return {
            "picture": torch.zeros(count, 3, side, side, dtype=torch.uint8),
            "label": torch.full((count,), -1),
            "object_mask": torch.zeros(count, side, side, dtype=torch.bool),
            "key": [""] * count,
            "weight": torch.zeros(count),
            "corrupt": torch.zeros(count, dtype=torch.int64),
        }

    def _fill(self, batch: Batch, i: int, sample: RawSample, epoch: int) -> Hole | None:
        """Decode a sample into row i; returns a hole, and leaves the row empty, where that is impossible."""
        name = f"sample {sample.key!r} of {sample.shard}"
        try:
            photograph = _photograph(sample, name)
            picture, mask = self._seen(photograph, sample, name, epoch)
        except InputError as error:
            return Hole(sample.key, str(error))
        if "cls" in sample.members:
            batch["label"][i] = decode_label(sample.members["cls"], name, self.num_classes)
        batch["picture"][i] = picture
        if mask is not None:
            batch["object_mask"][i] = mask
        batch["weight"][i] = 1
        return None

    def _seen(self, photograph: Image.Image, sample: RawSample, name: str, epoch: int) -> tuple[Tensor, Tensor | None]:
        """The picture, uint8 (3, crop, crop), and its object mask, bool (crop, crop), if the sample has one."""
        width, height = photograph.size
        view: View | None = None
        if self.augment:
            drawn = generator_for(self.seed, epoch, sample.key)
            view = random_view(width, height, self.preprocessing.crop, drawn)
            picture = view.picture(photograph, self.preprocessing.interpolation)
        else:
            picture = self.preprocessing.picture(photograph)
        if "mask.png" in sample.members:
            stored = decode_mask(sample.members["mask.png"], photograph.size, name)
            return picture, view.pixel_mask(stored) if view else central_pixel_mask(self.preprocessing, stored)
        boxes = decode_boxes(sample.members["json"], name) if "json" in sample.members else []
        if not boxes:
            return picture, None
        return picture, view.box_mask(boxes) if view else self.preprocessing.object_mask(boxes, width, height)


def _photograph(sample: RawSample, name: str) -> Image.Image:
    for extension in PICTURE_EXTENSIONS:
        if extension in sample.members:
            return decode_photograph(sample.members[extension], name)
    raise InputError(f"{name} has no picture, only {', '.join(sample.members)}; write it again with a .jpg or .png")

"""From raw samples to batches: the dictionary that every loader of the project yields.

``picture`` uint8 (B, C, H, W), channels_last in memory; ``label`` int64 (B,), -1 where unknown;
``object_mask`` bool (B, H, W), all False where there is no box; ``key`` list of str; ``weight``
float32 (B,), 1 where the slot holds a picture, 0 where it is padding or could not be decoded;
``corrupt`` int64 (B,), 1 where it could not be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from lit_iba.classifier.photograph import Photograph
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.decode import (
    PICTURE_EXTENSIONS,
    decode_boxes,
    decode_label,
    decode_mask,
    read_picture,
)
from lit_iba.data.tar_samples import DecodedSample, RawSample
from lit_iba.data.transport import batch_memory
from lit_iba.data.view import box_mask, central_centres, pixel_mask, random_view
from lit_iba.errors import InputError
from lit_iba.randomness import generator_for

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

    def __call__(
        self, slots: Sequence[RawSample | Hole | None], epoch: int = 0
    ) -> tuple[Batch, list[Hole]]:
        """Make one batch.

        Args:
            slots: A sample, a hole, or None for padding.
            epoch: Number of the epoch, for augmentation.

        Returns:
            The batch, and its holes with their reasons.

        Raises:
            InputError: A label is not a class, or a picture has other channels than the
                classifier. (A sample that cannot be decoded becomes a hole.)
        """
        rows = _Rows(len(slots), self.preprocessing)
        holes = []
        for i, slot in enumerate(slots):
            if slot is None:
                continue
            rows.keys[i] = slot.key
            outcome = self._fill(rows, i, slot, epoch) if isinstance(slot, RawSample) else slot
            if outcome is not None:
                rows.corrupt[i] = 1
                holes.append(outcome)
        return rows.batch(), holes

    def _fill(self, rows: _Rows, i: int, sample: RawSample, epoch: int) -> Hole | None:
        """Decode a sample into row i; returns a hole, and leaves the row empty, where that is
        impossible.
        """
        name = f"sample {sample.key!r} of {sample.shard}"
        try:
            stored = self._stored(sample, name)
        except InputError as error:
            return Hole(sample.key, str(error))
        photograph = Photograph.of(stored, self.preprocessing.channels, name)
        picture, centres = self._seen(photograph, sample.key, epoch)
        try:
            _draw_object(rows.masks[i], sample, photograph.size, centres, name)
        except InputError as error:
            return Hole(sample.key, str(error))
        if "cls" in sample.members:
            rows.labels[i] = decode_label(sample.members["cls"], name, self.num_classes)
        rows.pictures[i] = picture
        rows.weights[i] = 1
        return None

    def _stored(self, sample: RawSample, name: str) -> Image.Image | np.ndarray | Photograph:
        """The picture as the sample has it."""
        if isinstance(sample, DecodedSample):
            return sample.picture
        channels = self.preprocessing.channels
        # An array beside a photograph is what a network of its own channels sees; beside a network
        # of photographs it may be anything, such as an embedding.
        order = PICTURE_EXTENSIONS if channels in (1, 3) else PICTURE_EXTENSIONS[::-1]
        unscaled = self._unscaled if channels == 3 and not self.augment else None
        for extension in order:
            if extension in sample.members:
                return read_picture(sample.members[extension], extension, name, unscaled)
        raise InputError(
            f"{name} has no picture, only {', '.join(sample.members)}; write it again with a .jpg,"
            " .png or .npy"
        )

    def _unscaled(self, size: tuple[int, int]) -> bool:
        return self.preprocessing.scaled_size(*size) == size

    def _seen(
        self, photograph: Photograph, key: str, epoch: int
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The picture, uint8 (H, W, C), and where its pixel centres lie in the photograph, x (W,)
        and y (H,).
        """
        if not self.augment:
            return self.preprocessing.pixels(photograph), central_centres(
                self.preprocessing, *photograph.size
            )
        view = random_view(
            *photograph.size, self.preprocessing.size, generator_for(self.seed, epoch, key)
        )
        return view.pixels(photograph, self.preprocessing.interpolation), view.centres()


class _Rows:
    """A batch that is being filled, its pictures and masks unset at first; as arrays, because
    filling tensors one by one takes twice the time.
    """

    def __init__(self, count: int, preprocessing: Preprocessing) -> None:
        # One piece of memory for both; channels innermost, as Pillow has them and as convolutions
        # want them.
        (height, width), channels = preprocessing.size, preprocessing.channels
        area = count * height * width
        memory = batch_memory((channels + 1) * area)
        self._pictures = memory[: channels * area].view(count, height, width, channels)
        self._masks = memory[channels * area :].view(torch.bool).view(count, height, width)
        self.pictures, self.masks = self._pictures.numpy(), self._masks.numpy()
        self.labels = np.full(count, -1, dtype=np.int64)
        self.weights = np.zeros(count, dtype=np.float32)
        self.corrupt = np.zeros(count, dtype=np.int64)
        self.keys = [""] * count

    def batch(self) -> Batch:
        empty = self.weights == 0
        self.pictures[empty], self.masks[empty] = 0, False
        return {
            "picture": self._pictures.permute(0, 3, 1, 2),
            "label": torch.from_numpy(self.labels),
            "object_mask": self._masks,
            "key": self.keys,
            "weight": torch.from_numpy(self.weights),
            "corrupt": torch.from_numpy(self.corrupt),
        }


def _draw_object(
    mask: np.ndarray,
    sample: RawSample,
    size: tuple[int, int],
    centres: tuple[np.ndarray, np.ndarray],
    name: str,
) -> None:
    """Set which pixel centres lie in the sample's boxes, or else in its stored mask; none if it has
    neither.
    """
    described = sample.members.get("json")
    boxes = [] if described is None else decode_boxes(described, name, size)
    if boxes or "mask.png" not in sample.members:
        box_mask(boxes, *centres, out=mask)
    else:
        mask[:] = pixel_mask(decode_mask(sample.members["mask.png"], size, name), *centres)

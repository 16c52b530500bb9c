"""Which images of a shard are evaluated: a pure function of the shard and the settings, the same on
every process.

Where only images are wanted whose target is probable, it is a function of the classifier too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import Shard, shard_batches
from lit_iba.data.batch import BatchMaker, Hole
from lit_iba.data.sources import ShardReader
from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError

_NAMED = 5  # of the images that are left out
_READ = 64  # samples decoded at a time


@dataclass(frozen=True)
class SelectedImages:
    """Selected images of one shard, in the shard's order.

    Args:
        pictures: uint8 (N, C, H, W).
        labels: int64 (N,), -1 where unknown.
        object_mask: bool (N, H, W).
        keys: Names of the samples.
        corrupt: How many samples of the shard could not be decoded.
        unsure: The probability of the target of images that were left out because it is too low,
            by key. Where there are more images than wanted, only those that would have been drawn.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> from lit_iba.resumable import Selection
        >>> shard = ShardIndex.load("digits/test").shards[0]
        >>> selected = Selection().select(shard, 4, classifier.preprocessing)
        >>> selected.pictures.shape, len(selected.keys)
        (torch.Size([4, 3, 64, 64]), 4)
    """

    pictures: Tensor
    labels: Tensor
    object_mask: Tensor
    keys: list[str]
    corrupt: int
    unsure: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Selection:
    """Which samples are evaluated.

    Args:
        max_images: At most so many in all, shared out over the shards in proportion to their size
            and drawn within each; None takes all. A shard with fewer eligible images than its share
            gives those.
        max_box_fraction: Only images whose boxes cover less than this share of the picture, and at
            least one pixel; None takes images with any box or none.
        seed: Of the draw.
        min_probability: Only images whose target has at least this probability, as InputIBA's
            authors have it (0.6): of a class that the network does not see, insertion and deletion
            measure nothing. None takes all.

    Example:
        >>> from lit_iba.resumable import Selection
        >>> Selection(max_images=10).quotas([100, 50, 50])  # shared out over three shards
        [5, 2, 3]
    """

    max_images: int | None = None
    max_box_fraction: float | None = None
    seed: int = 0
    min_probability: float | None = None

    def __post_init__(self) -> None:
        check_counts(0, seed=self.seed)
        if self.max_images is not None and self.max_images < 1:
            raise InputError(f"max_images is {self.max_images}; give 1 or more, or None for all")
        if self.max_box_fraction is not None and not 0 < self.max_box_fraction <= 1:
            raise InputError(f"max_box_fraction is {self.max_box_fraction}; it must lie in (0, 1]")
        if self.min_probability is not None and not 0 < self.min_probability < 1:
            raise InputError(f"min_probability is {self.min_probability}; it must lie in (0, 1)")

    def quotas(self, counts: Sequence[int]) -> list[int]:
        """How many images each shard gives at most: proportional to its count, summing to
        ``max_images``.
        """
        total = sum(counts)
        if self.max_images is None or self.max_images >= total:
            return list(counts)
        # Cumulative and floored, so that the parts always add up to the whole.
        ends = [0]
        for count in counts:
            ends.append(ends[-1] + count)
        marks = [self.max_images * end // total for end in ends]
        return [after - before for before, after in pairwise(marks)]

    def identity(self, quota: int) -> dict[str, Any]:
        """What the selection in a shard depends on."""
        found = asdict(self) | {"max_images": quota}
        if self.min_probability is None:  # as results have it that are older than the setting
            del found["min_probability"]
        return found

    def select(
        self,
        shard: Shard,
        quota: int,
        preprocessing: Preprocessing,
        probability: Callable[[SelectedImages], Tensor] | None = None,
    ) -> SelectedImages:
        """Decode a shard and keep what is wanted of it.

        Args:
            shard: Where the images are.
            quota: At most so many.
            preprocessing: How they are decoded.
            probability: Of the targets of some images, (N,); needed for ``min_probability``.
        """
        kept: list[dict[str, Any]] = []
        unsure: dict[str, float] = {}
        corrupt = position = 0
        for batch in shard_batches(shard, preprocessing, _READ):
            corrupt += int((batch["weight"] == 0).sum())
            rows = []
            for i in self._eligible(batch):
                row = {name: batch[name][i].clone() for name in ("picture", "label", "object_mask")}
                rows.append(row | {"key": batch["key"][i], "position": position + i})
            position += len(batch["key"])
            if self.min_probability is not None:
                assert probability is not None
                rows = self._before(rows, kept, quota)  # no other is drawn, whatever it shows
                sure = (
                    probability(_stacked(rows, preprocessing)).tolist() if rows else list[float]()
                )
                unsure |= {
                    row["key"]: p
                    for row, p in zip(rows, sure, strict=True)
                    if not p >= self.min_probability
                }
                rows = [row for row in rows if row["key"] not in unsure]
            kept += rows
            if (
                len(kept) > quota
            ):  # drop the losers of the draw at once: a shard may be larger than memory
                kept = sorted(kept, key=lambda row: self._draw(row["key"]))[:quota]
        kept.sort(key=lambda row: row["position"])
        drawn = self._before([{"key": key} for key in unsure], kept, quota)
        named = {row["key"]: unsure[row["key"]] for row in drawn}
        return replace(_stacked(kept, preprocessing), corrupt=corrupt, unsure=named)

    def _before(
        self, rows: list[dict[str, Any]], kept: list[dict[str, Any]], quota: int
    ) -> list[dict[str, Any]]:
        """The rows that the draw prefers to the last of those that are kept."""
        if len(kept) < quota:
            return rows
        last = max((self._draw(row["key"]) for row in kept), default=b"")
        return [row for row in rows if self._draw(row["key"]) < last]

    def why_none(
        self,
        shards: Iterable[Shard],
        preprocessing: Preprocessing,
        unsure: Mapping[str, float] | None = None,
    ) -> str:
        """Of data whose images are all left out, why each of the first is; ``unsure`` as in
        :class:`SelectedImages`.
        """
        reasons, unsure = list[str](), unsure or {}
        shards = list(shards)
        for shard in shards:
            for sample in self._samples(shard):
                if len(reasons) == _NAMED:
                    break
                batch, holes = BatchMaker(preprocessing)([sample])
                key = batch["key"][0]
                if not holes and key in unsure:
                    reasons.append(
                        f"{key}: its target has probability {unsure[key]:.3f}, below"
                        f" min_probability, {self.min_probability}"
                    )
                    continue
                share = float(batch["object_mask"].float().mean())
                boxes = (
                    f"{key}: its boxes cover {share:.3f} of the picture, which must be"
                    f" above 0 and below max_box_fraction, {self.max_box_fraction}"
                )
                reasons.append(f"{holes[0].key}: {holes[0].reason}" if holes else boxes)
        more = sum(shard.count for shard in shards) - len(reasons)
        return "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")

    def _samples(self, shard: Shard) -> Iterator[RawSample | Hole]:
        reader = ShardReader(shard)
        try:
            yield from reader.read(range(shard.count))
        finally:
            reader.close()

    def _eligible(self, batch: dict[str, Any]) -> list[int]:
        good = batch["weight"] > 0
        if self.max_box_fraction is not None:
            fraction = batch["object_mask"].flatten(1).float().mean(dim=1)
            good &= (fraction > 0) & (fraction < self.max_box_fraction)
        return good.nonzero().flatten().tolist()

    def ranked(self, keys: Sequence[str]) -> list[int]:
        """Numbers of the keys in the order in which :meth:`select` prefers them."""
        return sorted(range(len(keys)), key=lambda i: self._draw(keys[i]))

    def _draw(self, key: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{key}".encode()).digest()


def _stacked(rows: Sequence[dict[str, Any]], preprocessing: Preprocessing) -> SelectedImages:
    size = preprocessing.size
    return SelectedImages(
        torch.stack([row["picture"] for row in rows])
        if rows
        else torch.zeros(0, preprocessing.channels, *size, dtype=torch.uint8),
        torch.tensor([int(row["label"]) for row in rows], dtype=torch.int64),
        torch.stack([row["object_mask"] for row in rows])
        if rows
        else torch.zeros(0, *size, dtype=torch.bool),
        [row["key"] for row in rows],
        corrupt=0,
    )

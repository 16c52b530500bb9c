"""Heatmaps of other images: what a metric compares a heatmap with, drawn from everything that the
same explainer gave.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lit_iba.errors import InputError
from lit_iba.randomness import sample_generators
from lit_iba.resumable.store import ShardStore


class HeatmapPool:
    """All heatmaps of one explainer, of which each image draws some that are not its own.

    The draw is a function of the seed, the image's key and the keys of all images: it depends
    neither on how images are spread over shards, batches and processes nor on their order.

    Args:
        entries: Key, group and row of every heatmap.
        read: From a group and rows of it to these heatmaps, float32 (H, W) each.
    """

    def __init__(
        self,
        entries: Iterable[tuple[str, str, int]],
        read: Callable[[str, list[int]], list[Tensor]],
    ) -> None:
        self.entries, self.read = sorted(entries), read
        self.images = Counter(entry[0] for entry in self.entries)

    @classmethod
    def stored(cls, store: ShardStore, explainer: str, shards: Sequence[str]) -> HeatmapPool:
        """Those of an explainer in a store, which must all be there; groups are stems of shards."""
        entries: list[tuple[str, str, int]] = []
        for shard in shards:
            with store.opened(explainer, shard) as file:
                keys = json.loads(file.metadata()["keys"])
            entries += [(key, shard, row) for row, key in enumerate(keys)]

        def read(shard: str, rows: list[int]) -> list[Tensor]:
            with store.opened(explainer, shard) as file:
                values = file.get_slice("values")
                return [values[row : row + 1][0] for row in rows]

        return cls(entries, read)

    def choose(self, key: str, count: int, seed: int) -> list[tuple[str, str, int]]:
        """``count`` different entries of other images than ``key``.

        Raises:
            InputError: There are not so many.
        """
        others = len(self.entries) - self.images[key]
        if others < count:
            raise InputError(
                f"{count} heatmaps of other images are wanted for sample {key!r}, but the run has"
                f" {others}; evaluate more images or lower noise_maps"
            )
        generator = sample_generators(seed, [key], torch.device("cpu"))[0]
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            drawn = int(torch.randint(len(self.entries), (), generator=generator))
            if self.entries[drawn][0] != key:
                chosen[drawn] = None
        return [self.entries[i] for i in chosen]

    def draw(self, keys: Sequence[str], count: int, seed: int) -> Tensor:
        """Heatmaps of other images for each key, float32 (B, count, H, W)."""
        wanted = [entry for key in keys for entry in self.choose(key, count, seed)]
        found: dict[tuple[str, str, int], Tensor] = {}
        for group in sorted({entry[1] for entry in wanted}):
            here = list(dict.fromkeys(entry for entry in wanted if entry[1] == group))
            values = self.read(group, [entry[2] for entry in here])
            found |= dict(zip(here, values, strict=True))
        return torch.stack([found[entry] for entry in wanted]).unflatten(0, (len(keys), count))

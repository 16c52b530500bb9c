"""Which images a callback evaluates: those that a benchmark with the same ``max_images`` and seed
takes, shared out over the processes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import Batch, BatchMaker
from lit_iba.data.sources import ListedSource, Place
from lit_iba.errors import InputError
from lit_iba.evaluation.processes import gathered
from lit_iba.resumable.selection import SelectedImages, Selection


@dataclass(frozen=True)
class ChosenImages:
    """This process's share of the images of one group (a shard).

    Args:
        source: Name of the group, for messages.
        images: The share.
        numbers: Which of all chosen images they are.
    """

    source: str
    images: SelectedImages
    numbers: list[int]


def choose(
    source: ListedSource,
    preprocessing: Preprocessing,
    selection: Selection,
    rank: int = 0,
    world_size: int = 1,
) -> list[ChosenImages]:
    """Choose images and decode this process's share; to be called by all processes at once.

    Only what is chosen is decoded. A sample that cannot be is replaced by the next in the draw, so
    that the choice is the benchmark's, whatever the number of processes.

    Raises:
        InputError: No image can be decoded.
    """
    groups = source.listing()
    quotas = selection.quotas([len(places) for _, places in groups])
    ranked = [
        [places[i] for i in selection.ranked([place.key for place in places])]
        for _, places in groups
    ]
    decoded: dict[Place, Batch] = {}
    lost: set[Place] = set()
    while True:
        chosen = [
            sorted(
                [place for place in places if place not in lost][:quota],
                key=lambda place: (place.shard, place.slot),
            )
            for places, quota in zip(ranked, quotas, strict=True)
        ]
        flat = [place for places in chosen for place in places]
        mine = flat[rank::world_size]
        found, holes = _decode(source, preprocessing, [p for p in mine if p not in decoded])
        decoded |= found
        new = {place for part in gathered(holes, world_size) for place in part}
        if not new:
            break
        lost |= new
    if not flat:
        raise InputError(f"no picture of {groups[0][0]} can be evaluated; check the data")
    numbers = {place: number for number, place in enumerate(flat)}
    shares = []
    for (name, _), places in zip(groups, chosen, strict=True):
        share = [place for place in places if numbers[place] % world_size == rank]
        if share:
            images = _stacked([decoded[place] for place in share], [p.key for p in share])
            shares.append(ChosenImages(name, images, [numbers[place] for place in share]))
    return shares


def _decode(
    source: ListedSource, preprocessing: Preprocessing, places: list[Place]
) -> tuple[dict[Place, Batch], list[Place]]:
    """The samples in some places, one batch of one each, and the places where that failed."""
    make, found, holes = BatchMaker(preprocessing), dict[Place, Batch](), list[Place]()
    by_shard: dict[int, list[Place]] = defaultdict(list)
    for place in sorted(places, key=lambda place: (place.shard, place.slot)):
        by_shard[place.shard].append(place)
    for shard, here in by_shard.items():
        reader = source.open(shard)
        try:
            samples = reader.read([place.slot for place in here])
            for place, sample in zip(here, samples, strict=True):
                batch, failed = make([sample])
                if failed:
                    holes.append(place)
                else:
                    found[place] = batch
        finally:
            reader.close()
    return found, holes


def _stacked(batches: list[Batch], keys: list[str]) -> SelectedImages:
    pictures, labels, masks = (
        torch.cat([batch[name] for batch in batches])
        for name in ("picture", "label", "object_mask")
    )
    return SelectedImages(pictures, labels, masks, keys, 0)

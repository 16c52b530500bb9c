"""Images and what is estimated from them for the explainers that need it: once, kept on disk, the
same for every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.classifier import FrozenClassifier
from lit_iba.data import ShardIndex, shard_batches
from lit_iba.errors import InputError
from lit_iba.explainer import E
from lit_iba.files import sha256_of_content
from lit_iba.resumable.heartbeat import Heartbeat
from lit_iba.resumable.identity import Recorded
from lit_iba.resumable.selection import Selection
from lit_iba.statistics import FeatureStatistics


class OwnStatistics:
    """Statistics of the photograph that is explained, for want of a data set.

    Each channel has one mean and one deviation, over the positions of this one photograph
    (:meth:`FeatureStatistics.pooled`). Bits are then relative to the photograph's own features.

    Args:
        images: The photograph, normalised (1, 3, H, W).

    Attributes:
        layers: The layers that statistics were asked for, so far.

    Example:
        >>> from lit_iba.evaluation import OwnStatistics
        >>> own = OwnStatistics(images[:1])
        >>> own.statistics(classifier, "layer2").std.shape, own.layers
        (torch.Size([64, 16, 16]), ['layer2'])
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self.layers: list[str] = []

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        """Statistics of one layer, pooled over positions."""
        self.layers.append(layer)
        return FeatureStatistics.estimate(
            classifier, layer, self._images, data="the photograph itself", pooled=True
        )

    def images(self, classifier: FrozenClassifier, count: int) -> Tensor:
        """Other images, of which there are none.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"this explainer compares with {count} other images; give statistics_data (shards)"
        )

    def batches(self, classifier: FrozenClassifier) -> Iterator[Tensor]:
        """Other images, of which there are none.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "this explainer measures something on many images; give statistics_data (shards)"
        )

    def estimated(
        self,
        classifier: FrozenClassifier,
        name: str,
        load: Callable[[Path], E],
        estimate: Callable[[Iterator[Tensor], str], E],
    ) -> E:
        """What is measured on many images, of which there are none.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{name} are measured on many images; give statistics_data (shards to measure them on)"
        )


class StoredStatistics(Recorded):
    """Statistics in ``<folder>/<layer>.safetensors``.

    Args:
        folder: Where they are kept.
        data: Shards that they are estimated from where the file is missing; None if they must be
            there.
        images: How many images are used, taken from the beginning of every shard.
        batch_size: Images per forward pass.
        rank: Number of this process; 0 estimates, the others wait for its file.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> from lit_iba.evaluation import StoredStatistics
        >>> stored = StoredStatistics("statistics", ShardIndex.load("digits/test"), images=8)
        >>> stored.statistics(classifier, "layer2").count
        8
    """

    def __init__(
        self,
        folder: str | Path,
        data: ShardIndex | None,
        images: int = 1000,
        batch_size: int = 32,
        rank: int = 0,
    ) -> None:
        check_counts(statistics_images=images, batch_size=batch_size)
        self.folder, self.data, self.count = Path(folder), data, images
        self.batch_size, self.rank = batch_size, rank
        self.company: Heartbeat | None = None  # of the other processes, where there are any
        self._used = {}

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the statistics are measured on; None if only the folder knows."""
        return (
            None
            if self.data is None
            else {"data": self.data.identity(), "images": min(self.count, self.data.total)}
        )

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        """Statistics of one layer, from the file or else from the data.

        Raises:
            InputError: There is neither a file nor data, or the file is of another classifier,
                layer or data set.
        """
        return self.estimated(
            classifier,
            layer,
            lambda path: FeatureStatistics.load(path, classifier, layer),
            lambda batches, data: FeatureStatistics.estimate(classifier, layer, batches, data=data),
            f"statistics of layer {layer!r}",
        )

    def images(self, classifier: FrozenClassifier, count: int) -> Tensor:
        """The first images of every shard of the data, ``count`` in all or as many as there are,
        (count, 3, H, W).

        Raises:
            InputError: No data are given.
        """
        if self.data is None:
            raise InputError(
                f"{count} images are asked for, but there is no statistics_data (shards) to take"
                " them from"
            )
        return torch.cat(list(self.batches(classifier, f"{count} images", count)))

    def estimated(
        self,
        classifier: FrozenClassifier,
        name: str,
        load: Callable[[Path], E],
        estimate: Callable[[Iterator[Tensor], str], E],
        what: str = "",
    ) -> E:
        """What is kept in the file ``<name>.safetensors``, or else estimated from the data and kept
        there.

        Args:
            classifier: Whose images the data become.
            name: Of the file.
            load: Reads the file and checks that it belongs to the classifier.
            estimate: Measures on batches of images (B, 3, H, W); also given what to call the data.
            what: What it is, for messages; by default its name.

        Raises:
            InputError: There is neither a file nor data, or the file is of another classifier or
                data set.
        """
        what, path = what or name, self.folder / f"{name.replace('/', '_')}.safetensors"
        measured_on = (
            ""
            if self.identity is None
            else f"{self.identity['images']} images of {self.identity['data']}"
        )
        if not path.is_file():
            if self.data is None:
                raise InputError(
                    f"no {what} at {path}; give statistics_data (shards to estimate them from), "
                    "or statistics_folder with the file in it"
                )
            if self.rank == 0:
                pictures = self._pictures(classifier, what, self.count)
                estimate(map(classifier.images, pictures), measured_on).save(path)
            elif self.company is not None:
                self.company.wait_for(path.is_file, 0, what)
        found = load(path)
        self._used[path.name] = sha256_of_content(path)
        if measured_on and found.identity.get("data") != measured_on:
            raise InputError(
                f"{path} was measured on {found.identity.get('data') or 'unnamed data'}, not on"
                f" {measured_on}; delete it, leave statistics_data out to use it as it is, or give"
                " another statistics_folder"
            )
        return found

    def batches(
        self, classifier: FrozenClassifier, progress: str = "", count: int | None = None
    ) -> Iterator[Tensor]:
        """The images that statistics are estimated from, as batches for a classifier; with a
        progress bar of this name.

        Raises:
            InputError: There is no data.
        """
        count, content = count or self.count, hashlib.sha256()
        for pictures in self._pictures(classifier, progress, count):
            content.update(pictures.numpy().tobytes())
            yield classifier.images(pictures)
        self._used[f"{count} pictures"] = content.hexdigest()

    def _pictures(
        self, classifier: FrozenClassifier, progress: str, count: int
    ) -> Iterator[Tensor]:
        """The first of every shard, uint8 (B, 3, H, W)."""
        if self.data is None:
            raise InputError(
                "statistics are to be estimated, but there is no data; give statistics_data"
                " (shards)"
            )
        quotas = Selection(max_images=count).quotas([shard.count for shard in self.data.shards])
        shards = zip(self.data.shards, quotas, strict=True)
        for shard, quota in track(
            list(shards), description=progress, transient=True, disable=not progress
        ):
            left = quota
            for batch in (
                shard_batches(shard, classifier.preprocessing, self.batch_size) if left else ()
            ):
                pictures = batch["picture"][batch["weight"] > 0][:left]
                left -= len(pictures)
                if len(pictures):
                    yield pictures
                if not left:
                    break

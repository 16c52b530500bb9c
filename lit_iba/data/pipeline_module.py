"""The LightningDataModule of a user's own data sets and pipelines."""

from __future__ import annotations

import importlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lit_iba.classifier.photograph import Photograph
from lit_iba.data.batch import Hole
from lit_iba.data.fields import SampleFields, class_names_of
from lit_iba.data.pipeline import (
    MapSource,
    PipelineLoader,
    PipelineStream,
    divides_itself,
    has_own_workers,
    has_places,
    part_of,
)
from lit_iba.data.sample_module import SampleDataModule
from lit_iba.data.shard import INDEX_NAME
from lit_iba.data.shard_writer import write_shards
from lit_iba.data.shards import ShardIndex
from lit_iba.data.sources import SampleSource
from lit_iba.data.tar_samples import DecodedSample
from lit_iba.errors import InputError

_log = logging.getLogger(__name__)


class PipelineDataModule(SampleDataModule):
    """A user's own data: whatever gives pictures with labels, and boxes where there are any.

    A data set with ``[]`` and a length (torchvision's, Hugging Face's, any of torch) is read as
    shards are: each sample once an epoch, on any number of processes, and a resumed run goes on in
    the middle of an epoch. What only goes forward (``wds.WebDataset``, ``wds.WebLoader``, an
    iterable) keeps its own order: each sample that it gives comes once, and an epoch that was
    interrupted begins again at its front.

    Args:
        train: A data set, or ``{"class_path": ..., "init_args": {...}}`` as a config writes it. It
            gives (picture, label), (picture, label, boxes) or dictionaries; pictures as they are
            stored: Pillow images, uint8 arrays or the bytes of files.
        val: The same for validation.
        test: The same for the test.
        predict: The same for prediction.
        names: What a dictionary calls its ``picture``, ``label``, ``boxes`` and ``key``, where they
            are not the usual names; several keys with dots between (``objects.bbox``).
        box_format: ``"xyxy"`` for corners, ``"xywh"`` as COCO has boxes; in stored pixels.
        class_names: Names of the classes in the order of the labels; None asks the data set.
        loading: As in :class:`SampleDataModule`.

    Example:
        >>> import numpy as np
        >>> from lit_iba.data import PipelineDataModule
        >>> pictures = [(np.zeros((8, 8, 3), np.uint8), number) for number in range(5)]
        >>> data = PipelineDataModule(test=pictures, batch_size=2)
        >>> data.setup("test")
        >>> [batch["label"].tolist() for batch in data.test_dataloader()]
        [[0, 1], [2, 3], [4, -1]]
    """

    def __init__(
        self,
        train: Any = None,
        val: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        names: dict[str, str] | None = None,
        box_format: Literal["xyxy", "xywh"] = "xyxy",
        class_names: list[str] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.fields = SampleFields(dict(names or {}), box_format)
        self.given = {"train": train, "val": val, "test": test, "predict": predict}
        self._class_names = class_names
        self._pipelines: dict[str, tuple[Any, list[str] | None]] = {}
        self._open: list[PipelineLoader] = []

    @classmethod
    def of(cls, given: Any, split: str) -> PipelineDataModule:
        """A data module, or one around a data set, as it is or as a config writes it.

        Example:
            >>> from lit_iba.data import PipelineDataModule
            >>> said = {"class_path": "torchvision.datasets.FakeData", "init_args": {"size": 3}}
            >>> len(PipelineDataModule.of(said, "test").given["test"])
            3
        """
        made = _made(given, split)
        return made if isinstance(made, cls) else cls(**{split: made})

    def load(self, split: str) -> tuple[SampleSource, list[str] | None] | None:
        """Make the data set of a split, where it is not made yet."""
        dataset = _made(self.given[split], split)
        if dataset is None:
            return None
        names = self._class_names or class_names_of(dataset, self.fields.names.get("label"))
        if has_places(dataset):
            if len(dataset) == 0:
                raise InputError(f"the data set of {split} is empty; give one with samples")
            return MapSource(dataset, self.fields), names
        if not hasattr(dataset, "__iter__"):
            raise InputError(
                f"a {type(dataset).__name__} cannot be read for {split}; give a data set with []"
                " and a length, or something to iterate over"
            )
        if isinstance(dataset, Iterator) and split in ("train", "val"):
            raise InputError(
                f"the data set of {split} is a {type(dataset).__name__}, which gives its samples"
                " only once, but feature statistics and every epoch read them from the front; give"
                " a data set with [] and a length, or an object whose __iter__ begins anew"
            )
        self._pipelines[split] = dataset, names
        return None

    def _names(self) -> dict[str, list[str] | None]:
        return super()._names() | {split: names for split, (_, names) in self._pipelines.items()}

    def train_dataloader(self) -> Any:
        """Training batches: of a data set with a length from where the checkpoint stopped, of a
        pipeline from its front.
        """
        if "train" not in self._pipelines:
            return super().train_dataloader()
        progress = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer else None
        begun = progress is not None and progress.current.ready > 0 and not progress.is_last_batch
        if self._resumed and begun:
            _log.warning(
                "the run stopped in the middle of an epoch, and a pipeline cannot go on there: the"
                " epoch begins again at its front, where a data set with a length would go on"
            )
        self._resumed = None
        return self._pipeline("train")

    def val_dataloader(self) -> Any:
        """Validation batches, every sample once; an empty list without validation data."""
        return self._pipeline("val") if "val" in self._pipelines else super().val_dataloader()

    def test_dataloader(self) -> Any:
        """Test batches, every sample once."""
        return self._pipeline("test") if "test" in self._pipelines else super().test_dataloader()

    def predict_dataloader(self) -> Any:
        """Batches in the data set's own order, every sample once; or ``prediction`` if it is
        set.
        """
        if "predict" not in self._pipelines or self.prediction:
            return super().predict_dataloader()
        return self._pipeline("predict", workers=min(1, self.num_workers))

    def statistics_dataloader(self) -> Any:
        """Training batches for feature statistics, unaugmented; of a pipeline in its own order."""
        if "train" not in self._pipelines:
            return super().statistics_dataloader()
        return self._pipeline("train", alone=True)

    def source(self, split: str) -> SampleSource | None:
        """As :meth:`SampleDataModule.source`.

        Raises:
            InputError: The split is a pipeline, which gives none of its samples by its name.
        """
        if split in self._pipelines:
            kind = type(self._pipelines[split][0]).__name__
            raise InputError(
                f"the {split} data are a {kind}, which only goes forward, but chosen images are"
                " asked for; give a data set with [] and a length, or keep it as shards with"
                " write_shards"
            )
        return super().source(split)

    def state_dict(self) -> dict[str, Any]:
        """The position in training; of a pipeline only that it is one."""
        return {"pipeline": True} if "train" in self._pipelines else super().state_dict()

    def teardown(self, stage: str) -> None:
        """End the workers of a finished run."""
        super().teardown(stage)
        while self._open:
            self._open.pop().close()

    def write_shards(self, split: str, out: str | Path, shard_size: int = 1000) -> ShardIndex:
        """Keep a split as shards, once: for a benchmark, whose unit of work is the shard.

        Pictures that are files stay as they are, decoded ones are kept without loss. Where ``out``
        holds an index already, nothing is written.

        Args:
            split: ``"train"``, ``"val"``, ``"test"`` or ``"predict"``.
            out: Where to.
            shard_size: Samples in each shard but the last.

        Raises:
            InputError: There is no such split, or a sample cannot be decoded.
        """
        if (Path(out) / INDEX_NAME).exists():
            return ShardIndex.load(out)
        dataset = _made(self.given.get(split), split)
        if dataset is None:
            raise InputError(f"there is no {split} data; give PipelineDataModule its {split!r}")
        names = self._class_names or class_names_of(dataset, self.fields.names.get("label"))
        return write_shards(self._stored(dataset), out, split, shard_size, names)

    def _stored(self, dataset: Any) -> Iterator[dict[str, Any]]:
        # A class with [] and no __iter__ need not end by IndexError.
        placed = has_places(dataset)
        samples = (dataset[number] for number in range(len(dataset))) if placed else iter(dataset)
        for number, given in enumerate(_undivided(samples)):
            sample = self.fields.sample(given, number)
            if isinstance(sample, Hole):
                raise InputError(f"{sample.reason}; mend it or leave it out")
            kept: dict[str, Any] = {"key": sample.key.replace(".", "_"), **sample.members}
            if isinstance(sample, DecodedSample):
                extension, kept_bytes = _file_of(sample.picture)
                kept[extension] = kept_bytes
            yield kept

    def _pipeline(
        self, split: str, alone: bool = False, workers: int | None = None
    ) -> PipelineLoader:
        pipeline, names = self._pipelines[split]
        training = split == "train" and not alone
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        workers = self.num_workers if workers is None else workers
        if has_own_workers(pipeline):
            workers = 0
        elif not divides_itself(pipeline):
            workers = min(1, workers)  # each of several would give all of it
        stream = PipelineStream(
            part_of(pipeline, rank, world),
            self.fields,
            self.batch_maker(names, self.augment and training),
            self.batch_size,
            rank,
            world,
        )
        fraction = 0.01 if split == "train" else 0.0
        loader = PipelineLoader(
            stream,
            workers,
            self.multiprocessing_context,
            fraction if self.max_corrupt_fraction is None else self.max_corrupt_fraction,
            self.worker_timeout,
            None if world == 1 or alone else self._any_process,
        )
        self._open.append(loader)
        return loader

    def _any_process(self, has_more: bool) -> bool:
        assert self.trainer is not None  # for there are several processes
        return self.trainer.strategy.reduce_boolean_decision(has_more, all=False)


# What a config can write: what is ``Any``, jsonargparse would make of a class path itself.
for _split in ("train", "val", "test", "predict"):
    PipelineDataModule.__init__.__annotations__[_split] = dict[str, Any] | None


def _made(given: Any, split: str) -> Any:
    """A data set, from what a config says of it or as it is."""
    if not isinstance(given, Mapping) or "class_path" not in given:
        if isinstance(given, str | Mapping):
            raise InputError(
                f"the data set of {split} is {str(given)[:80]!r}; give it itself, or"
                " {class_path: ..., init_args: {...}}; shards are for ShardDataModule"
            )
        return given
    module, _, name = str(given["class_path"]).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the data set of {split}, {given['class_path']!r}, is not there ({error}); correct its"
            " class_path"
        ) from error
    try:
        return cls(**(given.get("init_args") or {}))
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise InputError(
            f"the data set of {split}, {given['class_path']}, cannot be made ({error}); correct its"
            " init_args"
        ) from error


def _undivided(samples: Iterator[Any]) -> Iterator[Any]:
    """All of them, also where webdataset would take this process for one of several."""
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    while True:
        before = {name: os.environ.get(name) for name in alone}
        os.environ.update(alone)
        try:
            given = next(samples)
        except StopIteration:
            return
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        yield given


def _file_of(picture: Any) -> tuple[str, bytes]:
    """A decoded picture as the bytes of a file, without loss, and its extension."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):  # no PNG holds it
            grey = picture.mode.startswith("I")
            picture = Photograph.of(picture, 1 if grey else 3).planes[0]  # as it would be seen
        picture.save(buffer, "PNG")
        return "png", buffer.getvalue()
    np.save(buffer, picture)
    return "npy", buffer.getvalue()

"""What the LightningDataModules have in common: whatever their samples come from, they yield the
same batches (see batch.py) in the same kind of order (see plan.py).

A checkpoint holds the position in the epoch as numbers that do not depend on the process, so a
resumed run, even one of other processes, sees exactly what was left.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal
from weakref import WeakSet

from lightning.pytorch import LightningDataModule

from lit_iba.checks import check_counts, check_literals, check_numbers
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import BatchMaker
from lit_iba.data.labels import check_same_numbers
from lit_iba.data.loader import SampleLoader
from lit_iba.data.plan import ARRANGEMENT, SamplePlan, left_of_epoch
from lit_iba.data.sources import SampleSource, fingerprint_of
from lit_iba.data.stream import BatchStream, SampleMaker
from lit_iba.data.workers import WORKER_TIMEOUT
from lit_iba.errors import InputError

_STAGES = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}

_MEASURED_BLOCK = 256  # pictures that are shuffled together where statistics are measured


class SampleDataModule(LightningDataModule):
    """What the data modules share: loaders in the plan's order, and the position in a checkpoint.

    Subclasses write :meth:`load`, and take these settings as ``**loading``. ``preprocessing`` may
    be set until the first loader is made.

    Args:
        preprocessing: Size and crop of the pictures; None means ImageNet's usual one.
        batch_size: Samples in each batch of one process.
        num_workers: Worker processes of each process; 0 reads in the process itself.
        seed: Seeds order and augmentation, together with the epoch.
        augment: Whether training pictures are random crops, mirrored or not.
        block: Batches that are shuffled together.
        max_corrupt_fraction: Fraction of samples that may be undecodable before an error; None
            means 0.01 in training and 0 in evaluation.
        num_classes: Labels outside 0..num_classes-1 are errors; None takes the number from the
            index, if it knows.
        multiprocessing_context: How workers start: ``"fork"``, ``"spawn"``, ``"forkserver"``; None
            is ``"forkserver"`` where there are several processes, and else Python's default.
        worker_timeout: Seconds that a batch is waited for before the run ends with the reason.

    Example:
        >>> from lit_iba.data import SampleDataModule, ShardDataModule
        >>> data = ShardDataModule(test="digits/test", batch_size=4)
        >>> isinstance(data, SampleDataModule)
        True
    """

    def __init__(
        self,
        *,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        augment: bool = False,
        block: int = 16,
        max_corrupt_fraction: float | None = None,
        num_classes: int | None = None,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
        worker_timeout: float = WORKER_TIMEOUT,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, block=block)
        check_counts(0, num_workers=num_workers, seed=seed)
        check_numbers(0, exclusive=True, worker_timeout=worker_timeout)
        check_literals(SampleDataModule.__init__, locals())
        if num_classes is not None:
            check_counts(num_classes=num_classes)
        if max_corrupt_fraction is not None and not 0 <= max_corrupt_fraction <= 1:
            raise InputError(
                f"max_corrupt_fraction is {max_corrupt_fraction}; it must lie between 0 and 1"
            )
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.augment = augment
        self.block = block
        self.max_corrupt_fraction = max_corrupt_fraction
        self.num_classes = num_classes
        self.multiprocessing_context = multiprocessing_context
        self.worker_timeout = worker_timeout
        self._sources: dict[str, tuple[SampleSource, list[str] | None]] = {}
        self._train_loader: SampleLoader | None = None
        self._loaders: WeakSet[SampleLoader] = WeakSet()
        self._resumed: dict[str, Any] | None = None
        # The training data's fingerprint.
        self._known: tuple[SampleSource, dict[str, str]] | None = None
        self.prediction: Any = None  # a callback's own batches for prediction
        self._reload: int | None = None  # the trainer's own setting, while it is changed

    @abstractmethod
    def load(self, split: str) -> tuple[SampleSource, list[str] | None] | None:
        """Find and verify the samples of ``"train"``, ``"val"``, ``"test"`` or ``"predict"``, and
        their class names.

        None where the split was not given.
        """

    @property
    def class_names(self) -> list[str] | None:
        """Name of each class, where the data say it (after ``setup``)."""
        return next(filter(None, self._names().values()), None)

    def _names(self) -> dict[str, list[str] | None]:
        """Class names of each split that is set up, where it has some."""
        return {split: names for split, (_, names) in self._sources.items()}

    def setup(self, stage: str | None = None) -> None:
        """Find and verify the data of a stage (``"fit"``, ``"validate"``, ``"test"``,
        ``"predict"``), or of all.

        Raises:
            InputError: The same class has other labels in another split.
        """
        for split in dict.fromkeys(_STAGES.get(stage or "", ("train", "val", "test", "predict"))):
            if split not in self._sources and (found := self.load(split)) is not None:
                self._sources[split] = found
        check_same_numbers(
            {f"the {split} data": names for split, names in self._names().items()},
            "give class_names, all classes in the order of their labels",
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Let the module that is trained look at a batch before it is on a device, where the host
        would wait for an answer: its ``check_batch``, if it has one.
        """
        module = self.trainer.lightning_module if self.trainer else None
        if (check := getattr(module, "check_batch", None)) is not None:
            check(batch)
        return batch

    def teardown(self, stage: str) -> None:
        """End the workers of a finished run, which otherwise idle until the loader is collected."""
        for loader in self._loaders:
            loader.close()

    def train_dataloader(self) -> SampleLoader:
        """Shuffled training batches, from where the checkpoint, or the last loader, stopped."""
        if self.trainer and self.trainer.global_step == 0 and self.trainer.current_epoch == 0:
            self._train_loader = None  # a new run, perhaps with the data module of an earlier one
        state = self.state_dict() if self._resumed is None else self._resumed
        self._train_loader = self._resume(state) if state else self._loader("train")
        self._resumed = None
        if self.trainer and (self._train_loader.parts or self._reload is not None):
            # The rest of an epoch has its own plan; Lightning asks for the next epoch's loader when
            # told to reload.
            if self._reload is None:
                self._reload = self.trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
            rest = bool(self._train_loader.parts)
            self.trainer.reload_dataloaders_every_n_epochs = 1 if rest else self._reload  # type: ignore[attr-defined]
            self._reload = self._reload if rest else None
        return self._train_loader

    def _resume(self, state: dict[str, Any]) -> SampleLoader:
        """The loader at a position; what was taken in another arrangement becomes a part of the
        epoch that is done.
        """
        saved, parts, batches = state["plan"], list(state["parts"]), state["batches"]
        now = self._plan("train", lanes=saved["lanes"])
        _check_plan(saved, now)
        self._check_data(state)
        arrangement = {name: saved[name] for name in ARRANGEMENT}
        same = now.arrangement() == arrangement
        if batches and not same:
            parts.append({**arrangement, "batches": batches})
            batches = 0
        loader = self._loader(
            "train", lanes=saved["lanes"] if same else None, parts=parts, epoch=state["epoch"]
        )
        loader.seek(state["epoch"], batches)
        return loader

    def val_dataloader(self) -> SampleLoader | list[Any]:
        """Validation batches, every sample once; an empty list without validation data."""
        return self._loader("val") if "val" in self._sources else []

    def test_dataloader(self) -> SampleLoader:
        """Test batches, every sample once."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """Batches in the order of the files, every sample once; or ``prediction`` if it is set."""
        return self.prediction or self._loader("predict", lanes=1)

    def statistics_dataloader(self) -> SampleLoader:
        """Training pictures, one in each batch, in a shuffled order that is the same on every
        process, for any number of them and any size of training's batches.

        For measuring feature statistics: unaugmented, and without moving the position in training.
        """
        return self._loader("train", lanes=1, alone=True)

    def state_dict(self) -> dict[str, Any]:
        """The position in training, and what it rests on; equal on all processes."""
        loader = self._train_loader
        if loader is None:
            return self._resumed or {}
        epoch, batches, parts = loader.epoch, loader.batches, loader.parts
        # An epoch may be shorter than the data (limit_train_batches); Lightning begins the next one
        # after it.
        limit = self.trainer.num_training_batches if self.trainer else len(loader)
        if loader.before + batches >= min(limit, len(loader)):
            epoch, batches, parts = epoch + 1, 0, []
        return {
            "epoch": epoch,
            "batches": batches,
            "parts": parts,
            "plan": loader.plan.settings(),
            "data": self._fingerprint(),
        }

    def _fingerprint(self) -> dict[str, str]:
        source = self._sources["train"][0]
        if self._known is None or self._known[0] is not source:
            self._known = source, fingerprint_of(source)
        return self._known[1]

    def _check_data(self, state: dict[str, Any]) -> None:
        now = self._fingerprint()
        # Older checkpoints do not say, and an index with hashes may have been made since.
        if any(now.get(name, value) != value for name, value in state.get("data", {}).items()):
            raise InputError(
                "the checkpoint's position in the data is for as many samples of other data, or of"
                " other shards; resume with the shards as they were, or start a new run from its"
                " weights"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a position from a checkpoint; the next training loader begins there."""
        self._resumed = dict(state_dict)

    def source(self, split: str) -> SampleSource | None:
        """Where the samples of a split come from (after ``setup``); None where it was not given."""
        return self._sources[split][0] if split in self._sources else None

    def batch_maker(self, class_names: list[str] | None, augment: bool) -> SampleMaker:
        """What makes batches of samples; data of another kind than pictures have their own."""
        num_classes = self.num_classes or (len(class_names) if class_names else None)
        return BatchMaker(self.preprocessing or Preprocessing(), num_classes, augment, self.seed)

    def _plan(self, split: str, lanes: int | None = None, alone: bool = False) -> SamplePlan:
        """The order of a split on these processes, or as if this one were alone."""
        if split not in self._sources:
            where = f"{type(self).__name__} its {split!r}"
            raise InputError(f"there is no {split} data; give {where} (and call setup)")
        return SamplePlan(
            self._sources[split][0].counts(),
            1 if alone else self.batch_size,
            world=self.trainer.world_size if self.trainer and not alone else 1,
            lanes=lanes or max(1, self.num_workers),
            seed=self.seed,
            training=split == "train",
            block=_MEASURED_BLOCK if alone else self.block,
        )

    def _loader(
        self,
        split: str,
        lanes: int | None = None,
        alone: bool = False,
        parts: Sequence[dict[str, int]] = (),
        epoch: int = 0,
    ) -> SampleLoader:
        plan = self._plan(split, lanes, alone)
        source, names = self._sources[split]
        repeats = not alone and bool(getattr(self.trainer, "overfit_batches", 0))
        left = left_of_epoch(plan, 0 if repeats else epoch, parts)
        plan = plan if left is None else replace(plan, size=len(left))
        make = self.batch_maker(names, self.augment and plan.training and not alone)
        rank = self.trainer.global_rank if self.trainer and not alone else 0
        stream = BatchStream(source, plan, make, rank, left)
        loader = SampleLoader(
            *(stream, self.num_workers, self.max_corrupt_fraction),
            *(self.multiprocessing_context, parts, repeats),
            worker_timeout=self.worker_timeout,
        )
        self._loaders.add(loader)
        return loader


def _check_plan(saved: dict[str, Any], plan: SamplePlan) -> None:
    """A position means something in its own order of its own samples only."""
    now = plan.settings()
    changed = [
        f"{name} {saved[name]} (now {now[name]})"
        for name in ("total", "seed")
        if saved[name] != now[name]
    ]
    if changed:
        raise InputError(
            f"the checkpoint's position in the data is for {', '.join(changed)}; resume with the"
            " same values, or start a new run from its weights"
        )

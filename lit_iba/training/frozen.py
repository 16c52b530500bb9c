"""What every LightningModule around a frozen classifier shares: what its checkpoint holds, and how
it is checked.

The classifier is part of the module, so that it moves to the device with it, but not of the
    checkpoint: there, its name, its
weights' identity and its cut stand for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from tqdm.auto import tqdm

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.precision import warn_of_slow_bfloat16
from lit_iba.classifier.same_classes import check_same_classes
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap
from lit_iba.training.checkpoint import CLASSIFIER_KEY, KIND_KEY
from lit_iba.training.labels import check_batch_labels


class TrainingWithFrozenClassifier(L.LightningModule):
    """Base of the training modules.

    Args:
        classifier: Keyword arguments of :class:`FrozenClassifier`, plain values only; they go into
            the checkpoint.

    Raises:
        InputError: One of them is an object.

    Example:
        >>> from lit_iba.iba import ReadoutTraining
        >>> from lit_iba.training import TrainingWithFrozenClassifier
        >>> network = {"model": "small_cnn", "weights": "random"}
        >>> training = ReadoutTraining(network, "layer2", ["layer2"])
        >>> isinstance(training, TrainingWithFrozenClassifier)
        True
        >>> any(name.startswith("classifier") for name in training.state_dict())  # it is not stored
        False
    """

    draws_heatmaps: ClassVar[bool] = True  # whether ``forward`` gives a Heatmap
    headline: ClassVar[str] = "loss"  # the score that the progress bar shows

    scores: (
        nn.ModuleDict
    )  # MeanMetrics of what validation measures, by name; ``validation_step`` updates them

    def __init__(self, classifier: dict[str, Any]) -> None:
        super().__init__()
        _check_plain(classifier)
        self.classifier = FrozenClassifier(**classifier)
        self._classes_checked = False
        self.strict_loading = (
            False  # the classifier's keys are absent; on_load_checkpoint compares the rest
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override] # it has overloads
        """Everything but the classifier."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("classifier.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which class wrote the checkpoint, and for which classifier."""
        checkpoint[KIND_KEY] = type(self).__name__
        checkpoint[CLASSIFIER_KEY] = self.classifier.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, another classifier or another network shape."""
        kind = checkpoint.get(KIND_KEY)
        if kind != type(self).__name__:
            raise InputError(
                f"the checkpoint was written by {kind or 'another program'}, not by"
                f" {type(self).__name__}; give another"
            )
        self.classifier.check_identity(checkpoint[CLASSIFIER_KEY], "the checkpoint")
        # Of layers with equal shapes too, statistics are those of one of them.
        written = checkpoint.get("hyper_parameters", {})
        for name in ("layer", "taps"):
            before, now = written.get(name), self.hparams.get(name)
            if name in written and _plain(before) != _plain(now):
                raise InputError(
                    f"the checkpoint has {name} {before!r}, and the config {now!r}, whose features"
                    " it has not measured; use its own config, or train anew"
                )
        own: Mapping[str, Tensor] = self.state_dict()
        saved: Mapping[str, Tensor] = checkpoint["state_dict"]
        different = sorted(own.keys() ^ saved.keys()) + sorted(
            name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape
        )
        if different:
            raise InputError(
                "the checkpoint does not fit the configured network (in"
                f" {', '.join(different[:3])}); use its own config"
            )

    def setup(self, stage: str) -> None:
        """Give the data module the classifier's preprocessing, where it has none of its own."""
        if str(self.trainer.precision).startswith("bf16"):
            warn_of_slow_bfloat16(self.trainer.strategy.root_device, "--trainer.precision 32-true")
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and getattr(data, "preprocessing", None) is None:
            data.preprocessing = self.classifier.preprocessing

    def check_disk(self) -> None:
        """Fail before training rather than at the first checkpoint.

        Raises:
            InputError: There is less free space than three checkpoints with optimiser state take.
        """
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = sum(v.numel() * v.element_size() for v in self.state_dict().values())
        trained = sum(p.numel() * p.element_size() for p in self.parameters() if p.requires_grad)
        needed, free = 3 * (state + 2 * trained) + (64 << 20), shutil.disk_usage(folder).free
        if free < needed:
            raise InputError(
                f"{folder} has {free >> 20} MiB left, but checkpoints and logs of this run need"
                f" {needed >> 20} MiB; free some, or set trainer.default_root_dir to another disk"
            )

    def images_of(self, batch: dict[str, Any]) -> Tensor:
        """The classifier's images of a batch of pictures.

        Raises:
            InputError: The batch is none of a data module of lit_iba.data.
        """
        _check_form(batch, "picture")
        return self.classifier.in_fast_order(self.classifier.images(batch["picture"]))

    def targets_of(
        self, batch: dict[str, Any], target: str, outputs: Callable[[], Tensor]
    ) -> Tensor:
        """What is asked about the images of a batch, (B, ...).

        Args:
            batch: Of the data module.
            target: The data set's ``"label"``, or what is ``"predicted"``.
            outputs: Computes the classifier's outputs for the images.
        """
        objective = self.classifier.objective
        if target == "label":
            return objective.of_labels(batch["label"].clamp_min(0))  # empty slots weigh nothing
        with torch.no_grad():
            return objective.predicted(outputs())

    def check_strategy(self, reason: str) -> None:
        """Refuse a strategy under which several processes would wait for gradients that a step does
        not have.

        Raises:
            InputError: DDP that does not look for unused parameters; ``reason`` says why there are
                such.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get(
            "find_unused_parameters"
        ):
            raise InputError(
                f"{reason}; give several processes trainer.strategy ddp_find_unused_parameters_true"
            )

    @property
    def data_name(self) -> str:
        """What statistics say that they were measured on."""
        return type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]

    def check_batch(self, batch: dict[str, Any]) -> None:
        """Look at the labels of a batch where they are what is explained; data modules call it.

        Raises:
            InputError: As :meth:`check_labels`.
        """
        if getattr(self, "target", None) == "label":
            self.check_labels(batch, ", or train with target: predicted")

    def check_labels(self, batch: dict[str, Any], mend: str = "") -> None:
        """Compare the labels of a batch with the classifier's classes; at the first one, the names
        of the classes, too.

        Raises:
            InputError: A sample has no label, or one that the classifier does not know; or a class
                of the data is another one of the classifier's.
        """
        if not self._classes_checked:
            data = getattr(self._trainer, "datamodule", None)
            names = getattr(data, "class_names", None)
            check_same_classes(names, self.classifier.class_names, "the data", mend)
            self._classes_checked = True
        check_batch_labels(batch, self.classifier.num_classes, mend)

    def images_to_measure(self, count: int) -> Iterator[Tensor]:
        """This process's share of so many images: every so-many-th of one order that all processes
        share, whatever their number and their batches.

        Raises:
            InputError: There are fewer images than processes, or they come from elsewhere than from
                a data module of lit_iba.data.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "statistics_dataloader"):
            given = "loaders" if data is None else f"a {type(data).__name__}"
            raise InputError(
                f"the Trainer has {given}, but feature statistics come from a data module of"
                f" lit_iba.data; {_WRAP}"
            )
        rank, world = self.trainer.global_rank, self.trainer.world_size
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        seen, own = 0, list[Tensor]()
        with tqdm(total=count, desc="feature statistics", unit="image", disable=not shown) as bar:
            for batch in data.statistics_dataloader():
                _check_form(batch, "picture", "weight")
                pictures = batch["picture"][batch["weight"] > 0][: count - seen]
                own += pictures[(rank - seen) % world :: world]
                seen += len(pictures)
                bar.update(len(pictures))
                if len(own) >= getattr(data, "batch_size", 16):
                    yield self.classifier.images(torch.stack(own))
                    own = []
                if seen >= count:
                    break
        if seen < world:
            raise InputError(
                f"feature statistics are measured over {seen} images, which {world} processes"
                " cannot share; give more images, or use fewer processes"
            )
        if own:
            yield self.classifier.images(torch.stack(own))

    def drawings(self, pictures: Tensor) -> list[Tensor]:
        """What TensorBoard shows beside pictures uint8 (B, 3, H, W): further ones, overlay and
        heatmap unless overridden.
        """
        heatmap: Heatmap = self(self.images_of({"picture": pictures})).cpu()
        return [heatmap.overlay(pictures), heatmap.colored()]

    def update_scores(self, step: dict[str, Tensor], weight: Tensor) -> None:
        """Add a batch's values, each (B,), weighted by validity (B,) so that padding does not
        count.
        """
        for name, metric in self.scores.items():
            metric.update(step[name], weight)  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Log the scores, reduced over all processes."""
        self._log_scores("val")

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_index)

    def on_test_epoch_end(self) -> None:
        """As validation, under ``test/``."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        for name, metric in self.scores.items():
            value = metric.compute()  # type: ignore[operator]
            self.log(f"{stage}/{name}", value, prog_bar=name == self.headline, sync_dist=False)
            metric.reset()  # type: ignore[operator]


_WRAP = "give it PipelineDataModule around your own data set"


def _check_form(batch: Any, *names: str) -> None:
    missing = [name for name in names if not isinstance(batch, dict) or name not in batch]
    if missing:
        raise InputError(
            f"the Trainer's data give a {type(batch).__name__} without {missing[0]!r} for a batch,"
            f" where training needs those of a data module of lit_iba.data; {_WRAP}"
        )
    if batch["picture"].dtype != torch.uint8:
        raise InputError(
            f"the pictures of a batch are {batch['picture'].dtype}; give them as they are stored,"
            " uint8: the classifier's preprocessing scales and normalises them"
        )


def _check_plain(classifier: Mapping[str, Any]) -> None:
    """Refuse what no checkpoint could be read with again, before any training is lost to it."""
    for name, value in classifier.items():
        kind = _object_in(value)
        if kind is not None:
            mend = (
                "name a function that makes it, 'module:function', with the file of its weights"
                if name == "model"
                else "write it as a config would, in numbers, texts, lists and dictionaries"
            )
            raise InputError(
                f"the classifier's {name} is or has a {kind}, but goes into the checkpoint, which"
                f" holds no objects; {mend}"
            )


def _object_in(value: Any) -> str | None:
    """The type of something that a checkpoint without code cannot hold, or None."""
    if isinstance(value, dict | list | tuple):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return next(filter(None, map(_object_in, parts)), None)
    plain = value is None or type(value) in (str, int, float, bool)
    return None if plain else type(value).__name__


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""``fit``, ``validate`` and ``test`` through LightningCLI, with what a run needs to be resumed and
looked at.

Beyond LightningCLI: a run has one folder (``trainer.default_root_dir``) for config, TensorBoard and
checkpoints; checkpoints are written whole or not at all; a second start in the same folder keeps
the first one's config beside its own.
"""

from __future__ import annotations

import logging
import operator
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from lit_iba.checks import check_numbers
from lit_iba.cli.choices import ChoicesInOneSentence
from lit_iba.cli.refused import nothing_left_behind
from lit_iba.cli.training_help import DEFAULTS
from lit_iba.data.workers import end_workers, killed_worker_message, worker_killed
from lit_iba.errors import InputError
from lit_iba.files import FolderLock, check_folder, sweep_parts, write_text
from lit_iba.report.run_folder import COMMAND
from lit_iba.training.callbacks import (
    DurableCheckpointIO,
    FiniteLoss,
    HeatmapImages,
    ResumeCheckpoint,
)
from lit_iba.training.callbacks.resume import PreemptedError
from lit_iba.training.checkpoint import check_resumable, newest_checkpoint

# The least of those settings that the trainer itself does not check.
_LEAST = {
    **{"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0},
    **{"log_every_n_steps": 0, "min_epochs": 0, "min_steps": 0, "num_sanity_val_steps": -1},
}


class KeepConfig(SaveConfigCallback):
    """Writes the config into the run's folder, and the command that began the run; another config
    there is kept, and this one is numbered.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Once, on the first process."""
        if self.already_saved or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        text = self.parser.dump(self.config, skip_none=False)
        for number in range(1000):
            path = folder / ("config.yaml" if number == 0 else f"config_{number}.yaml")
            if not path.exists():
                write_text(path, text)
                if number == 0:
                    write_text(folder / COMMAND, shlex.join(sys.argv) + "\n")
                break
            if path.read_text(encoding="utf-8") == text:
                break
        self.already_saved = True


def read_whole_numbers_as_such(parser: ArgumentParser) -> None:
    """Make every argument that takes an int or a float try int first.

    ``typing`` keeps one of ``Union[int, float]`` and ``Union[float, int]``, whichever any package
    wrote first in this process, and jsonargparse goes by its order: ``--trainer.limit_train_batches
    1`` may then mean 1.0, all batches.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if int in kinds and float in kinds and kinds.index(float) < kinds.index(int):
            rest = [kind for kind in kinds if kind not in (int, float)]
            action._typehint = reduce(operator.or_, rest, int | float)  # type: ignore[attr-defined]  # typing keeps none of these


class TrainingParser(ChoicesInOneSentence, LightningArgumentParser):
    """LightningCLI's parser, which refuses a choice in one sentence."""


class TrainingCLI(LightningCLI):
    """LightningCLI with this project's run folder, callbacks and checkpoint writer."""

    # The lock of the run in this process; of the class, because a constructor that fails leaves no
    # object to release it.
    lock: FolderLock | None = None

    def __init__(self, args: Sequence[str], **settings: Any) -> None:
        self._command = args[0]
        super().__init__(args=list(args), **settings)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static in Lightning
        """The one that is run: a parser for each of them would take a second."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks every run has, tunable as ``--checkpoint.*`` and ``--heatmaps.*``."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(HeatmapImages, "heatmaps")
        parser.add_lightning_class_args(ResumeCheckpoint, "resume")
        parser.set_defaults(DEFAULTS)
        read_whole_numbers_as_such(parser)

    def _parse_ckpt_path(self) -> None:
        """LightningCLI lets a checkpoint's hyper-parameters override the command line in silence;
        here the config decides.
        """

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Put logs and checkpoints into the run's folder."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        root = Path(config["trainer"]["default_root_dir"])
        kwargs["callbacks"] = [
            *self._configured_callbacks(),
            *kwargs.get("callbacks", []),
        ]  # these arguments replace the config's
        for callback in self._callbacks():
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str((root / "checkpoints").absolute())
        if config["trainer"]["logger"] in (None, True) and not config["trainer"]["fast_dev_run"]:
            kwargs["logger"] = TensorBoardLogger(
                root, name="tensorboard", version="", default_hp_metric=False
            )
            kwargs["callbacks"].append(LearningRateMonitor("step"))
        kwargs["callbacks"].append(FiniteLoss())
        if config["trainer"]["enable_progress_bar"] is not False and not self._has_progress_bar():
            kwargs["callbacks"].append(TQDMProgressBar())  # one line, also in a job's log file
        kwargs["plugins"] = [*(config["trainer"]["plugins"] or []), DurableCheckpointIO()]
        check_folder(root, "trainer.default_root_dir")
        if config["checkpoint"]["dirpath"] is not None:
            check_folder(config["checkpoint"]["dirpath"], "checkpoint.dirpath")
        for name, least in _LEAST.items():
            if config["trainer"][name] is not None:
                check_numbers(least, **{name: config["trainer"][name]})
        try:
            trainer = super().instantiate_trainer(**kwargs)
            _check_built(trainer, config["trainer"])
            return trainer
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"the trainer refuses a setting ({reason}); correct it") from error

    def _set_seed(self) -> None:
        config = self.config[self.subcommand] if self.subcommand else self.config
        seed = config["seed_everything"]
        if not isinstance(seed, bool) and not 0 <= seed < 1 << 32:
            raise InputError(f"seed_everything is {seed}; it must lie between 0 and 2**32 - 1")
        super()._set_seed()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Hold the run's folder, and leave nothing in it if the run is refused before it has a
        checkpoint.
        """
        root = Path(self.trainer.default_root_dir)
        if not self.trainer.is_global_zero:  # which only the trainer knows, whatever launched us
            yield
            return
        with nothing_left_behind(root, everywhere=self.subcommand == "fit"):
            if self.subcommand == "fit":
                TrainingCLI.lock = FolderLock(root)
                self._sweep(root)
            yield

    def _run_subcommand(self, subcommand: str) -> None:
        with self._holding():
            super()._run_subcommand(subcommand)

    def _instantiate_trainer(
        self, config: dict[str, Any], callbacks: list[L.Callback]
    ) -> L.Trainer:
        """Without those that write checkpoints, where none are wanted."""
        if config["enable_checkpointing"] is False:
            writers = (ModelCheckpoint, ResumeCheckpoint)
            callbacks = [c for c in callbacks if not isinstance(c, writers)]
        return super()._instantiate_trainer(config, callbacks)

    def _sweep(self, root: Path) -> None:
        """Delete what a killed run has left half written; nobody else writes here now."""
        swept = [path for folder in (root, root / "checkpoints") for path in sweep_parts(folder)]
        if swept:
            rank_zero_info(
                f"deleted unfinished files of a killed run: {', '.join(map(str, swept))}"
            )

    def _configured_callbacks(self) -> list[L.Callback]:
        """Those of ``trainer.callbacks``."""
        init = self.config_init[self.subcommand] if self.subcommand else self.config_init
        given = init["trainer"]["callbacks"] or []
        return given if isinstance(given, list) else [given]

    def _has_progress_bar(self) -> bool:
        return any(isinstance(callback, ProgressBar) for callback in self._configured_callbacks())

    def before_validate(self) -> None:
        """What is validated or tested is a checkpoint: an untrained network says nothing."""
        command = str(self.subcommand)
        given = self.config_init[command]["ckpt_path"]
        if given is None:
            raise InputError(
                f"{command} needs the checkpoint of a training; give it as --ckpt_path"
            )
        if given in ("last", "best"):
            folder = Path(self.trainer.default_root_dir) / "checkpoints"
            path = folder / f"{given}.ckpt"
            if not path.is_file():
                raise InputError(
                    f"{folder} holds no {given}.ckpt; give the path of a checkpoint as --ckpt_path"
                )
            self.config_init[command]["ckpt_path"] = path

    before_test = before_validate

    def before_fit(self) -> None:
        """``--ckpt_path last`` means the newest whole checkpoint of the run's folder; without any,
        the beginning.
        """
        settings = self.config_init["fit"]
        if settings["ckpt_path"] == "best":
            raise InputError(
                "ckpt_path is 'best'; a training goes on from 'last' or the path of a checkpoint"
            )
        if settings["ckpt_path"] == "last":
            # Where instantiate_trainer has put it, also if this run itself writes none.
            dirpath = next(c.dirpath for c in self._callbacks() if isinstance(c, ModelCheckpoint))
            folder = Path(str(dirpath))
            settings["ckpt_path"] = newest_checkpoint(folder)
            if settings["ckpt_path"] is None:
                rank_zero_info(
                    f"{folder} holds no checkpoint yet: training begins at the first step"
                )
        elif settings["ckpt_path"] is not None:
            check_resumable(settings["ckpt_path"], type(self.model).__name__)

    def after_fit(self) -> None:
        """Say which checkpoint was the best, by what, and where the curves are."""
        trainer: L.Trainer = self.trainer
        kept = trainer.checkpoint_callback
        if not isinstance(kept, ModelCheckpoint) or not kept.best_model_path:
            return
        best = Path(kept.best_model_path)
        chosen = ""
        if kept.monitor is not None and kept.best_model_score is not None and best.is_file():
            step = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["global_step"]
            chosen = f" ({kept.monitor} {float(kept.best_model_score):.4g} after step {step})"
        curves = ""
        if isinstance(trainer.logger, TensorBoardLogger):
            folder = _beside_here(Path(trainer.logger.log_dir))
            curves = f"; curves and figures: tensorboard --logdir {folder}"
        rank_zero_info(f"best checkpoint: {_beside_here(best)}{chosen}{curves}")

    def _callbacks(self) -> list[L.Callback]:
        init = self.config_init[self.subcommand] if self.subcommand else self.config_init
        return [init[key] for key in self._parser(self.subcommand).callback_keys]


def _check_built(trainer: L.Trainer, given: Any) -> None:
    """Refuse what the trainer takes, but no run can be made with."""
    if given["val_check_interval"] == 0:
        raise InputError("val_check_interval is 0; give a number of batches, or a part of an epoch")
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    if any(seconds is not None and seconds <= 0 for seconds in left):
        raise InputError(f"max_time is {given['max_time']}; it must be a time above 0")
    if re.search("spawn|fork|notebook", str(given["strategy"])):
        raise InputError(
            f"strategy is {given['strategy']!r}, whose processes cannot be resumed; give auto or"
            " ddp"
        )
    if trainer.precision in ("16-true", "bf16-true"):
        raise InputError(
            f"precision is {trainer.precision!r}, which would round the frozen classifier's"
            f" weights; give {trainer.precision.replace('true', 'mixed')}"
        )


def _beside_here(path: Path) -> Path:
    """The path as a user in this folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# Lightning's remarks that no user of this project can act on, each with its reason.
SILENCED = {
    ".*args parameter is intended to run from within Python.*": (
        "the arguments are those of the process"
    ),
    ".*module.s. in eval mode at the start of training.*": "the classifier is frozen on purpose",
    ".*does not have many workers.*": "num_workers is in the config",
    ".*isinstance.treespec, LeafSpec.*": "an internal call of Lightning",
    ".*It is recommended to use .self.log.*sync_dist=True.*": (
        "what is logged at the end of an epoch is a torchmetric's, of all processes already"
    ),
    ".*Checkpoint directory .* exists and is not empty.*": (
        "a run is resumed, or started again, in its own folder"
    ),
}


def run_training(arguments: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Raises:
        InputError: Settings that do not fit, as one sentence.
        PreemptedError: A signal ended the run; its checkpoint is written.
    """
    os.environ.setdefault(
        "JSONARGPARSE_DEPRECATION_WARNINGS", "off"
    )  # they are about LightningCLI's own calls
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    try:
        TrainingCLI(
            arguments,
            model_class=L.LightningModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=KeepConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=TrainingParser,
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError | PreemptedError):
                raise cause from error
            if worker_killed(cause):
                raise InputError(killed_worker_message(cause)) from error
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        end_workers()
        if TrainingCLI.lock is not None:
            TrainingCLI.lock.release()
            TrainingCLI.lock = None

"""What makes a run resumable to the bit: regular checkpoints, one more when the cluster takes the
machine, and step seeds.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_iba.checks import check_counts
from lit_iba.errors import InputError
from lit_iba.files import write_text
from lit_iba.randomness import seed_for
from lit_iba.training.callbacks.optimizer_settings import Asked, asked_of, take_changes

LAST = "last.ckpt"
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start again, and it goes on
EXIT_STOPPED = 130  # what shells expect of a program that Ctrl-C ended
BY_A_PERSON = ("SIGINT", "SIGHUP")  # Ctrl-C, or a terminal that was closed


class PreemptedError(RuntimeError):
    """The run was asked to end by a signal; its state is in a checkpoint, and ``--ckpt_path last``
    goes on from there.

    Args:
        message: What ended it, and where.
        status: What the process exits with.

    Example:
        >>> from lit_iba.training.callbacks import PreemptedError
        >>> raise PreemptedError("ended by SIGTERM after step 120")
        Traceback (most recent call last):
            ...
        lit_iba.training.callbacks.resume.PreemptedError: ended by SIGTERM after step 120
    """

    def __init__(self, message: str, status: int = EXIT_PREEMPTED) -> None:
        super().__init__(message)
        self.status = status


class ResumeCheckpoint(L.Callback):
    """Keeps ``checkpoints/last.ckpt`` fresh, saves it once more on a signal, and then ends the run.

    Cluster managers warn by a signal before they take a machine: SLURM by the one that ``--signal``
    names (SIGUSR1 is usual), and by SIGTERM a grace time before SIGKILL. One process's signal stops
    all processes after the same step. Inside a SLURM job the job is also put back into the queue.

    Every training step begins with a random state that belongs to (seed, epoch, batch, process), so
    that layers which draw random numbers, such as dropout, do the same after a resume.

    Args:
        every_n_steps: Save after so many steps; 0 saves only with the validation's checkpoints and
            on signals.
        signals: Names of the signals that end the run.
        requeue: Whether to call ``scontrol requeue`` in a SLURM job that a signal ends.

    Raises:
        PreemptedError: After the checkpoint is written.

    Example:
        >>> from lightning import Trainer
        >>> from lit_iba.training import ResumeCheckpoint
        >>> resume = ResumeCheckpoint(every_n_steps=100, signals=("SIGTERM",))
        >>> trainer = Trainer(callbacks=[resume], logger=False, default_root_dir="run")
        >>> resume.path(trainer).name
        'last.ckpt'
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"),
        requeue: bool = True,
    ) -> None:
        check_counts(0, every_n_steps=every_n_steps)
        for name in signals:
            if name not in signal.Signals.__members__ or name in ("SIGKILL", "SIGSTOP"):
                raise InputError(
                    f"signals names {name!r}; give those that can be answered, such as SIGTERM"
                )
        self.every_n_steps, self.signals, self.requeue = every_n_steps, signals, requeue
        self._received: str | None = None
        self._seen_step = 0
        self._validation_due = False
        self._loops: dict[str, Any] | None = (
            None  # of the checkpoint, until a due validation is made
        )
        self._limits: tuple[int, int | None] | None = None  # the trainer's, while they are lifted
        self._before: dict[str, Any] = {}  # handlers that others had set
        self._asked: Asked | None = None  # of the optimisers, by this run's config
        self._asked_before: Asked | None = None  # and by that of the checkpoint's run
        self._patience: list[tuple[EarlyStopping, int]] = []

    def state_dict(self) -> dict[str, Any]:
        """Whether a validation is due, and what the config asks of the optimisers."""
        return {"validation_due": self._validation_due, "optimizers": self._asked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self._validation_due = bool(state_dict.get("validation_due"))
        self._asked_before = state_dict.get("optimizers")  # older checkpoints do not say

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep where the checkpoint stands, and what it would take from other callbacks."""
        self._loops = checkpoint["loops"]
        stops = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
        self._patience = [(stop, stop.patience) for stop in stops]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """After a due validation the run stands where it stood before: the trainer's own counters
        are between two states then.
        """
        if self._loops is not None:
            checkpoint["loops"] = self._loops

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that has all its steps would be skipped, and with it the validation that is due."""
        self._asked = asked_of(trainer.optimizers)  # their state is restored after this
        loop = trainer.fit_loop
        if self._validation_due:
            self._limits = loop.epoch_loop.max_steps, loop.max_epochs
            loop.epoch_loop.max_steps, loop.max_epochs = -1, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen; after Lightning has set its own handlers, which it removes again by itself. Then
        make the validation that is due.
        """
        self._seen_step = trainer.global_step
        self._take_asked(trainer)
        if threading.current_thread() is threading.main_thread():
            for name in self.signals:
                self._before[name] = signal.signal(getattr(signal, name), self._note)
        elif self.signals:  # which Python gives to the main thread alone
            rank_zero_info("training in a thread: no signal ends it with a checkpoint")
        _check_accumulation(trainer)
        loop = trainer.fit_loop
        if self._limits is not None:
            (loop.epoch_loop.max_steps, loop.max_epochs), self._limits = self._limits, None
        if self._validation_due:
            trainer.validating = True
            loop.epoch_loop.val_loop.restarting = False
            loop.epoch_loop.val_loop.run()
            trainer.training = True
            self._validation_due = False  # also where there is nothing to validate on
            if 0 <= trainer.max_steps <= trainer.global_step:  # no end of an epoch will come
                for callback in trainer.checkpoint_callbacks:
                    callback.on_train_epoch_end(trainer, pl_module)
        self._loops = None

    def _take_asked(self, trainer: L.Trainer) -> None:
        for stop, patience in self._patience:
            stop.patience = patience
        before, self._asked_before = self._asked_before, None
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        changes = take_changes(trainer.optimizers, schedules, before or [], self._asked or [])
        if changes:
            rank_zero_info(f"the optimiser goes on with this config's {', '.join(changes)}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An epoch that is resumed behind its last batch has none, after which Lightning would
        forget that it was resumed; the next epoch would be taken for resumed at its end too.
        """
        trainer.fit_loop.epoch_loop.restarting = False

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Listen no longer."""
        self._listen_no_longer()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen no longer."""
        self._listen_no_longer()

    def _listen_no_longer(self) -> None:
        while self._before:
            name, handler = self._before.popitem()
            signal.signal(getattr(signal, name), handler)

    def _note(self, number: int, _frame: Any) -> None:
        name = signal.Signals(number).name
        if name == self._received == "SIGINT":
            raise KeyboardInterrupt
        self._received = name

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step."""
        seed = os.environ.get("PL_GLOBAL_SEED", "0")
        torch.manual_seed(seed_for(seed, trainer.current_epoch, batch_idx, trainer.global_rank))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time, when the run has all its steps, or when any process was told to
        stop; only after whole optimiser steps.
        """
        loop = trainer.fit_loop
        self._validation_due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]  # only Lightning knows
        if trainer.global_step == self._seen_step:
            return  # gradients are being accumulated, and no checkpoint holds them
        ends = 0 <= trainer.max_steps <= trainer.global_step
        if loop.epoch_loop.batch_progress.is_last_batch and (self._validation_due or not ends):
            # Lightning would resume from here with the counters of one epoch and the batches of
            # the next, which would then have no validation. What comes next saves and stops: the
            # validation, or the next epoch's first batch.
            return
        before, self._seen_step = self._seen_step, trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
        # A batch may count several steps: one of each optimiser, under manual optimisation.
        due = (
            self.every_n_steps
            and trainer.global_step // self.every_n_steps > before // self.every_n_steps
        )
        if stop or due or ends:
            self._save(trainer)
        if stop:
            self._end(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save before a validation, which may take longer than the grace time."""
        if self._in_training(trainer) and self._loops is None:
            self._validation_due = True
            self._save(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Leave a validation at once: the state before it is saved already."""
        if self._in_training(trainer) and trainer.strategy.reduce_boolean_decision(
            self._received is not None, all=False
        ):
            self._end(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is saved from now on, by others first, has been validated."""
        self._validation_due = self._validation_due and not self._in_training(trainer)

    @staticmethod
    def path(trainer: L.Trainer) -> Path:
        """Where the checkpoint goes: beside the others of this run."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        return Path(folder or Path(trainer.default_root_dir) / "checkpoints") / LAST

    @staticmethod
    def _in_training(trainer: L.Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path(trainer), weights_only=False)  # with the optimiser

    def _end(self, trainer: L.Trainer) -> None:
        name = self._received or "a signal in another process"
        job = os.environ.get("SLURM_JOB_ID")
        if job and self.requeue and trainer.is_global_zero and name not in BY_A_PERSON:
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            done = subprocess.run(
                ["scontrol", "requeue", job], capture_output=True, text=True, check=False
            )
            rank_zero_info(f"scontrol requeue {job}: {done.stderr.strip() or 'done'}")
        raise PreemptedError(
            f"ended by {name} after step {trainer.global_step}; --ckpt_path last goes on from"
            " there",
            EXIT_STOPPED if name == "SIGINT" else EXIT_PREEMPTED,
        )


def _check_accumulation(trainer: L.Trainer) -> None:
    """Refuse validations between two batches whose gradients are added up: what is saved there has
    lost the first one's.
    """
    group, every = trainer.accumulate_grad_batches, float(trainer.val_check_batch or math.inf)
    batches = trainer.num_training_batches
    if group == 1 or not trainer.enable_validation or not math.isfinite(every):
        return
    if math.isinf(batches):
        ends = [int(every)]
    elif trainer.check_val_every_n_epoch is None:  # counted over epochs, each of which ends a group
        ends = [number * int(every) % int(batches) for number in range(1, int(batches) + 1)]
    else:
        ends = list(range(int(every), int(batches), int(every)))
    if any(end % group for end in ends):
        raise InputError(
            f"a validation after every {int(every)} batches comes between two of the {group} whose"
            " gradients are accumulated, where no run can be resumed; give a val_check_interval"
            f" that is a multiple of {group} batches"
        )


class FiniteLoss(L.Callback):
    """Ends the run at the first loss that is NaN or infinite, before it reaches the weights; saves
    the batch's keys.

    Example:
        >>> import torch
        >>> from lightning import Trainer
        >>> from lit_iba.training import ClassifierTraining, FiniteLoss
        >>> trainer = Trainer(logger=False, accelerator="cpu", callbacks=[FiniteLoss()])
        >>> FiniteLoss().on_before_backward(trainer, ClassifierTraining(), torch.tensor(torch.nan))
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: the loss of step 0 is nan; the batch's keys are in ...
    """

    def __init__(self) -> None:
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch."""
        self._batch = batch

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Check.

        Raises:
            InputError: The loss is not finite.
        """
        if bool(torch.isfinite(loss)):
            return
        keys = (
            list(self._batch["key"])
            if isinstance(self._batch, dict) and "key" in self._batch
            else []
        )
        where = Path(trainer.default_root_dir) / f"not_finite_rank{trainer.global_rank}.json"
        found = {
            "loss": str(loss.item()),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "keys": keys,
        }
        write_text(where, json.dumps(found, indent=1) + "\n")
        saved = ResumeCheckpoint.path(trainer)
        raise InputError(
            f"the loss of step {trainer.global_step} is {loss.item()}; the batch's keys are in"
            f" {where}: look at them, lower the learning rate, or train in float32"
            + (f"; {saved} is from before" if saved.exists() else "")
        )

"""Metrics of heatmaps while an explainer trains, so that a checkpoint can be chosen by them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lit_iba.checks import check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.data import SampleDataModule
from lit_iba.data.sources import ListedSource
from lit_iba.errors import InputError
from lit_iba.evaluation.benchmark import Benchmark, shards_of
from lit_iba.evaluation.built import class_of, subject_of
from lit_iba.evaluation.callbacks.chosen_images import choose
from lit_iba.evaluation.callbacks.judging import Judging, Scored
from lit_iba.evaluation.callbacks.logged import log_evaluation
from lit_iba.evaluation.entries import Named, class_and_settings
from lit_iba.evaluation.plan import named_metrics
from lit_iba.evaluation.processes import TrainerProcesses
from lit_iba.explainer import Explainer, build_explainer, explainer_class
from lit_iba.metrics.judged import Subject
from lit_iba.resumable.selection import Selection


class EvaluationMetrics(L.Callback):
    """Judges the module's heatmaps after validations, and in a test.

    Logs ``val/<metric>`` and ``val/<metric>_se`` (its standard error), the same of every control as
    ``val/<metric>/<control>``, curves as figures, and the rows as a table. ``ModelCheckpoint`` and
    ``EarlyStopping`` can monitor them; between two evaluations the last one stands. The images are
    those that a benchmark with ``max_images`` takes, shared out over the processes; a validation
    that is made shorter (``limit_val_batches``, ``fast_dev_run``, ``overfit_batches``) bounds them.

    Args:
        metrics: By name, settings as in a benchmark's config. The first is shown in the progress
            bar.
        controls: Explainers to compare with, by name, or with settings as in a benchmark's config;
            judged once a run.
        images: At most so many, the same ones each time; None takes all.
        every_n_epochs: Evaluate at the validations of every so-many-th epoch, and at the first.
        batch_size: Images explained together; by default the data module's.
        target: The class to explain: the ``"label"``, or the ``"predicted"`` one.
        seed: Of the draw of images.
        out: A folder that a test makes a benchmark's run of, for ``evaluate.py report``.

    Raises:
        InputError: An unknown name or setting; before the first step, what the data lack.

    Example:
        >>> from lightning import Trainer
        >>> from lit_iba.evaluation import EvaluationMetrics
        >>> evaluation = EvaluationMetrics({"bounding_box": {}}, controls=["random"], images=4)
        >>> trainer = Trainer(callbacks=[evaluation], logger=False, accelerator="cpu")
        >>> list(evaluation.metrics), list(evaluation.controls)
        (['bounding_box'], ['random'])
    """

    def __init__(
        self,
        metrics: dict[str, dict[str, Any] | None],
        controls: list[str] | dict[str, dict[str, Any] | None] | None = None,
        images: int | None = 200,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        target: Literal["label", "predicted"] = "label",
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        check_literals(EvaluationMetrics.__init__, locals())
        if not metrics:
            raise InputError("EvaluationMetrics has no metrics; name one, such as bounding_box")
        if every_n_epochs < 1 or (batch_size is not None and batch_size < 1):
            raise InputError("every_n_epochs and batch_size must be 1 or more")
        self.settings: Named = dict(metrics)
        self.metrics = named_metrics(metrics)
        named = controls if isinstance(controls, Mapping) else dict.fromkeys(controls or ())
        self.controls = {
            name: class_and_settings("explainer", name, given) for name, given in named.items()
        }
        for cls, _ in self.controls.values():
            explainer_class(cls)
        self.selection = Selection(images, seed=seed)
        self.every_n_epochs, self.batch_size, self.target = every_n_epochs, batch_size, target
        self.out = None if out is None else Path(out)
        self.history: dict[str, list[tuple[int, float, float]]] = {}
        self._logged: dict[str, float] = {}  # of the last evaluation
        self._judging: dict[str, Judging] = {}
        self._control_subjects: dict[str, Subject] = {}
        self._control_scores: dict[str, dict[str, dict[str, Scored]]] = {}  # by stage

    def state_dict(self) -> dict[str, Any]:
        """The scores so far."""
        return {"history": self.history, "logged": self._logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after them."""
        self.history = {name: list(rows) for name, rows in state_dict["history"].items()}
        self._logged = dict(state_dict["logged"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """A new run begins: what an earlier one kept may be of other data."""
        self._judging, self._control_scores = {}, {}
        if stage == "fit":
            self.history, self._logged = {}, {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images, and refuse what cannot be judged."""
        self._prepare(trainer, pl_module, "val")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rehearse with one image, before the first step."""
        if judging := self._judging.get("val"):
            with _aside(pl_module):
                for name, subject in self._subjects(pl_module).items():
                    judging.rehearse(name, subject)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare, where no training did."""
        if not trainer.sanity_checking:
            self._prepare(trainer, pl_module, "val")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare."""
        self._prepare(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and log, or log the last evaluation again."""
        if trainer.sanity_checking or "val" not in self._judging:
            return
        training = trainer.state.fn == "fit"
        if (
            not training
            or not self._logged
            or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        ):
            self._evaluate(trainer, pl_module, "val")
        self._log(pl_module, self._logged)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and log; write the run's folder, if one is wanted."""
        if "test" not in self._judging:
            return
        self._evaluate(trainer, pl_module, "test")
        self._log(pl_module, self._logged)
        if self.out is not None:
            with _aside(pl_module):
                self._benchmark(trainer, pl_module, self.out).run(TrainerProcesses(trainer))

    def _prepare(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage in self._judging:
            return
        classifier, explainer = carried(pl_module)
        split = {"val": "val", "test": "test"}[stage]
        data, source = _source(trainer, split)
        if source is None:
            return  # Lightning does not validate either
        if clash := sorted(self.metrics.keys() & set(getattr(pl_module, "scores", {}))):
            raise InputError(
                f"the module logs {stage}/{clash[0]} itself; give the metric another name, as "
                f"my_name: {{metric: {clash[0]}}}"
            )
        count = self._allowed(trainer, stage, data, int(source.counts().sum()))
        if count == 0:
            return
        selection = Selection(count, seed=self.selection.seed)
        world = trainer.world_size
        chosen = choose(source, classifier.preprocessing, selection, trainer.global_rank, world)
        size = self.batch_size or data.batch_size
        self._judging[stage] = Judging(classifier, self.metrics, chosen, size, self.target, world)
        if class_of(explainer) in self.controls:
            raise InputError(f"{class_of(explainer)} is trained, so that it cannot be a control")
        self._control_subjects = {
            name: Subject.named(build_explainer(cls, classifier, settings), cls, settings)
            for name, (cls, settings) in self.controls.items()
        }

    def _allowed(self, trainer: L.Trainer, stage: str, data: SampleDataModule, total: int) -> int:
        """How many images: no more than the validation, or the test, itself takes."""
        together = data.batch_size * trainer.world_size
        limit = trainer.limit_test_batches if stage == "test" else trainer.limit_val_batches
        batches = -(-total // together)
        batches = int(batches * limit) if isinstance(limit, float) else min(limit or 0, batches)
        return min(total, batches * together, self.selection.max_images or total)

    def _subjects(self, pl_module: L.LightningModule) -> dict[str, Subject]:
        _, explainer = carried(pl_module)
        return {class_of(explainer): subject_of(explainer), **self._control_subjects}

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        start, judging = time.monotonic(), self._judging[stage]
        own, *controls = self._subjects(pl_module).items()
        with _aside(pl_module):
            scored = {own[0]: judging.score(*own)}
            kept = self._control_scores.setdefault(stage, {})
            for name, subject in controls:
                if name not in kept:
                    kept[name] = judging.score(name, subject)
        scored |= kept
        logged: dict[str, float] = {}
        for name in self.metrics:
            for explainer, by_name in scored.items():
                result = by_name[name].result
                tag = f"{stage}/{name}" + ("" if explainer == own[0] else f"/{explainer}")
                logged |= {tag: result.score, f"{tag}_se": result.standard_error}
            result = scored[own[0]][name].result
            if stage == "val" and math.isnan(result.score):
                rank_zero_warn(
                    f"{stage}/{name} is no number, so that best.ckpt cannot choose by it; take more"
                    " images, or monitor another metric"
                )
            if stage == "val":
                point = (trainer.global_step, result.score, result.standard_error)
                self.history.setdefault(name, []).append(point)
        if trainer.is_global_zero:
            step, history = trainer.global_step, self.history if stage == "val" else {}
            log_evaluation(trainer.loggers, stage, step, self.metrics, scored, history)
        logged[f"{stage}/evaluation_seconds"] = time.monotonic() - start
        self._logged = logged

    def _log(self, pl_module: L.LightningModule, values: Mapping[str, float]) -> None:
        main = next(iter(self.metrics))
        for tag, value in values.items():
            # Equal on all processes already, since every one of them has all rows.
            pl_module.log(tag, value, prog_bar=tag.partition("/")[2] == main, sync_dist=False)

    def _benchmark(self, trainer: L.Trainer, pl_module: L.LightningModule, out: Path) -> Benchmark:
        classifier, explainer = carried(pl_module)
        data, source = _source(trainer, "test")
        judging = self._judging["test"]
        given: dict[str, Any] = {
            name: {"explainer": cls, **settings} for name, (cls, settings) in self.controls.items()
        }
        return Benchmark(
            classifier,
            shards_of(source),
            {class_of(explainer): explainer, **given},
            self.settings,
            out,
            batch_size=judging.scorer.batch_size,
            max_images=self._allowed(trainer, "test", data, int(source.counts().sum())),
            target=self.target,
            seed=self.selection.seed,
        )


def carried(module: L.LightningModule) -> tuple[FrozenClassifier, Explainer]:
    """The classifier and the explainer of a module.

    Raises:
        InputError: It has none.
    """
    classifier = getattr(module, "classifier", None)
    explainer = getattr(module, "explainer", None)
    if not isinstance(classifier, FrozenClassifier) or not isinstance(explainer, Explainer):
        raise InputError(
            f"{type(module).__name__} has no heatmaps to judge; use a module with a frozen "
            "classifier and an explainer, such as ReadoutTraining or ExplainerModule"
        )
    return classifier, explainer


def _source(trainer: L.Trainer, split: str) -> tuple[SampleDataModule, Any]:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, SampleDataModule):
        raise InputError(
            "EvaluationMetrics takes its images from a data module of lit_iba.data; give the "
            "Trainer one, such as ShardDataModule, in place of loaders"
        )
    source = data.source(split)
    if source is not None and not isinstance(source, ListedSource):
        raise InputError(f"the samples of {type(data).__name__} are no pictures with names")
    return data, source


@contextmanager
def _aside(module: nn.Module) -> Iterator[None]:
    """In eval mode, with gradients for the explainers that take some, and leaving the training's
    random numbers and modes as they were.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with isolate_rng(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode

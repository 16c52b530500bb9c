"""Heatmaps of ``Trainer.predict`` in the same store as a benchmark's, and the rest of the run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from lit_iba.checks import check_literals
from lit_iba.data import SampleDataModule, Shard
from lit_iba.errors import InputError
from lit_iba.evaluation.benchmark import Benchmark, shards_of
from lit_iba.evaluation.built import class_of
from lit_iba.evaluation.callbacks.evaluation_metrics import carried
from lit_iba.evaluation.entries import Named
from lit_iba.evaluation.plan import EvaluationPlan
from lit_iba.evaluation.processes import TrainerProcesses
from lit_iba.evaluation.scoring import Explained, Scorer, TargetedImages


class ShardBatches:
    """The batches of the shards that still lack heatmaps, those of one process.

    Args:
        plan: What is to be explained.
        name: By which explainer.
        rank: Number of this process.
        world_size: How many there are.
    """

    def __init__(self, plan: EvaluationPlan, name: str, rank: int, world_size: int) -> None:
        self.plan, self.scorer = plan, Scorer(plan.classifier, plan.batch_size, plan.target)
        self.missing = [
            shard
            for shard in plan.share(rank, world_size)
            if not plan.heatmaps.complete(name, shard.stem, plan.fingerprint(shard, name))
        ]

    def __len__(self) -> int:
        """At most so many; an upper bound, since samples may turn out to be corrupt."""
        sizes = (self.plan.quotas[shard.stem] for shard in self.missing)
        return max(1, sum(max(1, -(-size // self.plan.batch_size)) for size in sizes))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        plan = self.plan
        for shard in self.missing:
            images = plan.selected(shard)
            work = self.scorer.targeted(images, str(shard.path))
            parts = list(self.scorer.batches(len(work))) or [slice(0, 0)]
            for part in parts:
                yield {
                    "picture": images.pictures[part],
                    "label": images.labels[part],
                    "target": work.targets[part],
                    "key": images.keys[part],
                    "whole": _Whole(shard, work, part is parts[0], part is parts[-1]),
                }


class _Whole:
    """The shard that a batch is of, and whether it is its first or last one."""

    def __init__(self, shard: Shard, work: TargetedImages, first: bool, last: bool) -> None:
        self.shard, self.work, self.first, self.last = shard, work, first, last


class HeatmapWriter(BasePredictionWriter):
    """Writes what ``trainer.predict(ExplainerModule(...), datamodule)`` explains into a benchmark's
    folder, then judges it.

    One file per shard; process r of n takes shards r, r + n, ...; a prediction that is started
    again does only the shards that are missing. At the end the folder is that of a finished
    benchmark. Give ``predict`` its ``return_predictions=False``, so that heatmaps are not kept in
    memory.

    Args:
        out: Folder of the run.
        metrics: Settings by name, as in a benchmark's config; without, only heatmaps are written.
        max_images: At most so many images.
        max_box_fraction: Only images whose boxes cover less than this share of the picture.
        min_probability: Only images whose target has at least this probability.
        target: The class to explain: the ``"label"``, or the ``"predicted"`` one.
        gallery: Number of pictures kept for the report.
        seed: Of the draw of images.

    Raises:
        InputError: The folder holds results of other settings, or the data are no shards.

    Example:
        >>> from lightning import Trainer
        >>> from lit_iba import build_explainer
        >>> from lit_iba.data import ShardDataModule
        >>> from lit_iba.evaluation import ExplainerModule, HeatmapWriter
        >>> writer = HeatmapWriter("runs/predicted", {"bounding_box": {}})
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[writer],
        ...                   enable_progress_bar=False)
        >>> module = ExplainerModule(build_explainer("saliency", classifier))
        >>> data = ShardDataModule(predict="digits/test", batch_size=4)
        >>> trainer.predict(module, data, return_predictions=False)
        small_cnn, 8 images, mean ± standard...
    """

    def __init__(
        self,
        out: str | Path,
        metrics: dict[str, dict[str, Any] | None] | None = None,
        max_images: int | None = None,
        max_box_fraction: float | None = None,
        min_probability: float | None = None,
        target: Literal["label", "predicted"] = "label",
        gallery: int = 12,
        seed: int = 0,
    ) -> None:
        super().__init__("batch")
        check_literals(HeatmapWriter.__init__, locals())
        self.out, self.metrics = Path(out), dict(metrics or {})
        self.settings: dict[str, Any] = {
            "max_images": max_images,
            "max_box_fraction": max_box_fraction,
            "min_probability": min_probability,
            "target": target,
            "gallery": gallery,
            "seed": seed,
        }
        self._benchmark: Benchmark | None = None
        self._name = ""
        self._explained: Explained | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the folder's settings, and let the data module hand out what is missing."""
        if stage != "predict":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SampleDataModule) or data.source("predict") is None:
            raise InputError(
                "HeatmapWriter writes the heatmaps of shards; give the Trainer a ShardDataModule "
                "with predict"
            )
        classifier, explainer = carried(pl_module)
        classifier.to(trainer.strategy.root_device)
        self._name = class_of(explainer)
        metrics: Named = self.metrics
        self._benchmark = Benchmark(
            classifier,
            shards_of(data.source("predict")),
            {self._name: explainer},
            metrics,
            self.out,
            batch_size=data.batch_size,
            **self.settings,
        )
        # A batch of ours says itself what it holds.
        warnings.filterwarnings("ignore", message=".*infer the batch indices.*ShardBatches")
        processes = TrainerProcesses(trainer)
        self._benchmark.prepare(processes)
        data.prediction = ShardBatches(
            self._benchmark.plan, self._name, processes.global_rank, processes.world_size
        )

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take a batch's heatmaps; write the shard's file after its last one."""
        assert self._benchmark is not None
        plan, whole = self._benchmark.plan, batch["whole"]
        _, explainer = carried(pl_module)
        if whole.first:
            scorer = Scorer(plan.classifier, plan.batch_size, plan.target)
            self._explained = scorer.explained(whole.work, self._name, explainer)
        assert self._explained is not None
        if prediction is not None:
            self._explained.add(prediction, batch["key"])
        if whole.last:
            plan.heatmaps.write(
                self._name,
                whole.shard.stem,
                self._explained.tensors(whole.work),
                plan.fingerprint(whole.shard, self._name),
                self._explained.metadata(whole.work),
            )

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge, and write the results, from the files of all processes; not where the Trainer was
        told to predict only a part.
        """
        assert self._benchmark is not None
        if trainer.limit_predict_batches != 1.0:
            return
        self._benchmark.run(TrainerProcesses(trainer))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The data module hands out its own batches again."""
        data = getattr(trainer, "datamodule", None)
        if stage == "predict" and isinstance(data, SampleDataModule):
            data.prediction = None

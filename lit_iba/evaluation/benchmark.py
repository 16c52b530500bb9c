"""A benchmark: explain the images of a data set, judge the heatmaps, and write the results into one
folder.

The shard is the unit of work. Process r of n takes shards r, r + n, ...; each writes its own files,
and nothing is sent between processes until all files are there. A run that was killed does only
what is missing when it is started again.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from rich.console import Console

from lit_iba.checks import check_counts, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.data import Shard, ShardIndex
from lit_iba.data.patterns import Source
from lit_iba.data.sources import SampleSource, ShardSource
from lit_iba.errors import InputError
from lit_iba.evaluation.entries import Named
from lit_iba.evaluation.plan import EvaluationPlan, NamedExplainers
from lit_iba.evaluation.results import Gallery, extremes, spread, summarize_metrics, summary_table
from lit_iba.evaluation.surroundings import StoredStatistics
from lit_iba.evaluation.worker import ShardWorker
from lit_iba.explainer import Explainer
from lit_iba.files import read_text
from lit_iba.report.run_folder import CONFIG, GALLERY, RESULTS, ROWS, RunFolder
from lit_iba.resumable.content import with_content
from lit_iba.resumable.heartbeat import Heartbeat
from lit_iba.resumable.progress import EvaluationProgress
from lit_iba.resumable.selection import Selection
from lit_iba.resumable.store import as_of_today, first_difference, sweep_abandoned

if TYPE_CHECKING:
    from lit_iba.evaluation.processes import Processes

_log = logging.getLogger(__name__)


class Benchmark:
    """Explainers and metrics over a data set.

    Args:
        classifier: The network that is explained.
        data: Shards to evaluate: a folder with an index, tars or a pattern; or a
            :class:`ShardIndex`.
        explainers: Settings by name; another name with ``explainer: NAME`` (or a class path) among
            the settings is an alias. A built :class:`Explainer` may stand in their place.
        metrics: Settings by name; likewise with ``metric: NAME``.
        out: Folder of the run.
        batch_size: Images that are explained together.
        max_images: At most so many images, see :class:`Selection`.
        max_box_fraction: Only images whose boxes cover less than this share of the picture, see
            :class:`Selection`.
        min_probability: Only images whose target has at least this probability; the others are
            counted and named in the results.
        target: ``"label"``, or ``"predicted"`` for the class that the classifier finds most
            probable.
        gallery: Number of pictures kept for the report, from all over the data; those on which
            the best explainer of each metric does best and worst come in addition.
        panels: Of so many of them, the class score's decomposition by layers is drawn
            (Grabska-Barwinska, figures 2 and 4; see ``lit_iba.activity.panels``).
        statistics_data: Shards that feature statistics are estimated on.
        statistics_images: How many of their images are used.
        statistics_folder: Where statistics are kept; by default ``<out>/statistics``.
        seed: Of the draw of images where ``max_images`` leaves a choice.
        fresh: Whether to delete what an earlier run left in ``out``.

    Raises:
        InputError: Unknown names or settings.

    Example:
        >>> from lit_iba import Benchmark
        >>> explainers, metrics = {"saliency": {}, "random": {}}, {"bounding_box": {}}
        >>> results = Benchmark(classifier, "digits/test", explainers, metrics, "run").run()
        small_cnn, 8 images, mean ± standard...
        >>> sorted(results["results"]["bounding_box"])
        ['random', 'saliency']
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        data: ShardIndex | Source,
        explainers: NamedExplainers,
        metrics: Named,
        out: str | Path,
        *,
        batch_size: int = 16,
        max_images: int | None = None,
        max_box_fraction: float | None = None,
        min_probability: float | None = None,
        target: Literal["label", "predicted"] = "label",
        gallery: int = 12,
        panels: int = 0,
        statistics_data: ShardIndex | Source | None = None,
        statistics_images: int = 1000,
        statistics_folder: str | Path | None = None,
        seed: int = 0,
        fresh: bool = False,
    ) -> None:
        check_literals(Benchmark.__init__, locals())
        check_counts(batch_size=batch_size, statistics_images=statistics_images)
        check_counts(0, gallery=gallery, panels=panels)
        self.source = _source_of(data)
        self.out, self.gallery, self.panels, self.fresh = Path(out), gallery, panels, fresh
        self.surroundings = StoredStatistics(
            statistics_folder or self.out / "statistics",
            None if statistics_data is None else _index_of(statistics_data),
            statistics_images,
            batch_size,
        )
        self.plan = EvaluationPlan.from_names(
            explainers,
            metrics,
            classifier=classifier,
            data=_index_of(data),
            out=self.out,
            batch_size=batch_size,
            selection=Selection(max_images, max_box_fraction, seed, min_probability),
            target=target,
            statistics=self.surroundings.identity,
        )

    def run(self, fabric: Processes | None = None) -> dict[str, Any]:
        """Do what is missing, then write and return the results.

        Args:
            fabric: A launched Fabric (or a :class:`TrainerProcesses`), which says how many
                processes there are and which device is whose; by default one process on the best
                device there is.

        Returns:
            The content of ``results.json``, on every process.

        Raises:
            InputError: The folder holds results of other settings, or no image is left to evaluate.
        """
        if fabric is None:
            from lightning import Fabric

            fabric = Fabric(devices=1)
        self.plan.classifier.to(fabric.device)
        with Heartbeat(self.out, fabric.global_rank, fabric.world_size) as company:
            self.prepare(fabric)
            self.surroundings.rank, self.surroundings.company = fabric.global_rank, company
            self._work(fabric, self._explainers(), company)
            fabric.barrier()
            if fabric.global_rank == 0:
                self._finish()
            fabric.barrier()
        return RunFolder.read(self.out)

    def _explainers(self) -> dict[str, Explainer]:
        """Built, with a note of what statistics and pictures each of them was given."""
        built, measured = {}, {}
        for name in self.plan.explainers:
            with self.surroundings.recorded() as used:
                built[name] = self.plan.build(name, self.surroundings)
            measured[name] = used
        self.plan = replace(self.plan, measured=measured)
        return built

    def _work(
        self, fabric: Processes, explainers: dict[str, Explainer], company: Heartbeat
    ) -> None:
        """This process's shards, and a wait until the others' are done."""
        plan, world = self.plan, fabric.world_size
        mine = plan.share(fabric.global_rank, world)
        images = sum(plan.quotas[shard.stem] for shard in mine)
        planned = dict.fromkeys(plan.kinds(plan.metrics, explaining=True), images)
        rounds = len(mine) * (1 + plan.compares)
        with EvaluationProgress(planned, rounds, shown=fabric.global_rank == 0) as progress:
            worker = ShardWorker(plan, explainers, progress, self.surroundings)
            for shard in mine:
                worker.do(shard)
                progress.shard_done(shard.name)
            if plan.compares:
                for number, shard in enumerate(plan.data.shards):
                    there = partial(self._explained, shard)
                    company.wait_for(there, number % world, f"the heatmaps of {shard.name}")
                for shard in mine:
                    worker.do(shard, comparing=True)
                    progress.shard_done(f"{shard.name} (comparison with other images)")
        # Unlike a barrier, this has no time limit: other processes may have hours of work left.
        for number, shard in enumerate(plan.data.shards):
            files = plan.files(shard)
            there = partial(_all_there, files)
            company.wait_for(there, number % world, f"the results of {shard.name}")

    def _explained(self, shard: Shard) -> bool:
        """Whether all heatmaps of a shard are there."""
        return all(
            self.plan.heatmaps.complete(name, shard.stem, self.plan.fingerprint(shard, name))
            for name in self.plan.explainers
        )

    def prepare(self, fabric: Processes) -> None:
        """Compare the folder's config with this run's, and write it.

        Raises:
            InputError: The folder holds results of other settings.
        """
        if self.fresh and fabric.global_rank == 0:
            for folder in ("heatmaps", "rows", "statistics", "panels"):
                shutil.rmtree(self.out / folder, ignore_errors=True)
            for file in (CONFIG, RESULTS, ROWS, GALLERY):
                (self.out / file).unlink(missing_ok=True)
        if fabric.global_rank == 0:
            with_content(self.plan.data, self.out, self.plan.used)
        fabric.barrier()  # the others read what this one hashed
        data = with_content(self.plan.data, self.out, self.plan.used)
        self.plan = replace(self.plan, data=data)
        config = self._checked_config()
        fabric.barrier()  # nobody writes before everybody has compared
        if fabric.global_rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            if swept := sweep_abandoned(self.out):
                _log.warning(
                    "deleted %d unfinished files that a killed run left in %s", swept, self.out
                )
            RunFolder.write_config(self.out, config)

    def _checked_config(self) -> dict[str, Any]:
        """This run's config, and beside it the explainers and metrics that earlier runs in the same
        folder had.

        Explainers and metrics may be added to a folder; what two runs have in common must be equal.
        """
        config, path = self.plan.config(), self.out / CONFIG
        if not path.is_file():
            return config
        earlier = as_of_today(yaml.safe_load(read_text(path, "config")))
        earlier = earlier if isinstance(earlier, dict) else {}
        for room in ("explainers", "metrics"):
            before, now = earlier.get(room) or {}, config[room]
            config[room], earlier[room] = before | now, now | before
        if earlier != config:
            raise InputError(
                f"{self.out} holds a run with another config ({first_difference(earlier, config)});"
                " choose another output folder, or start this one afresh (fresh: true)"
            )
        return config

    def _finish(self) -> None:
        """Results from the files of all shards; computed by one process."""
        plan = self.plan
        described, used, corrupt, unsure, disagree = self._explainers_described()
        if not sum(used):
            for folder in ("heatmaps", "rows"):  # of nothing
                shutil.rmtree(self.out / folder, ignore_errors=True)
            why = plan.selection.why_none(plan.data.shards, plan.classifier.preprocessing, unsure)
            raise InputError(f"no image of {self.source} is left to evaluate: {why}")
        results = summarize_metrics(
            plan.rows, plan.metrics, list(plan.explainers), plan.stems, self.out
        )
        for metric in plan.metrics.values():  # that may have judged nothing in this run
            metric.objective = plan.classifier.objective
        below = plan.selection.min_probability
        left_out = {"min_probability": below, "images": len(unsure), "probabilities": unsure}
        content = RunFolder.heading() | {
            "classifier": plan.classifier.identity,
            "network": plan.classifier.arguments,
            "data": {
                "source": self.source,
                "images": plan.data.total,
                "used": sum(used),
                "corrupt": corrupt,
                "size": list(plan.classifier.preprocessing.size),
                "target": plan.target,
                "selection": asdict(plan.selection),
                **({} if disagree is None else {"wrongly_predicted": disagree}),
                **({} if below is None else {"left_out": left_out}),
                "identity": plan.data.identity(),
            },
            "explainers": described,
            "metrics": {
                name: {**metric.identity, "definition": metric.definition, "better": metric.better}
                for name, metric in plan.metrics.items()
            },
            "results": {
                m: {e: r.to_dict() for e, r in by_name.items()} for m, by_name in results.items()
            },
        }
        telling = extremes(plan.rows, plan.metrics, results, plan.stems, self.gallery)
        self._write_gallery(spread(used, self.gallery, telling), described)
        console = Console()
        console.print(summary_table(RunFolder.write(self.out, content)))
        if corrupt:
            console.print(
                f"{corrupt} of {plan.data.total} samples could not be decoded and were left out"
            )
        if unsure:
            console.print(
                f"{len(unsure)} images whose target has a probability below {below} were left out"
            )

    def _explainers_described(
        self,
    ) -> tuple[dict[str, dict[str, Any]], list[int], int, dict[str, float], int | None]:
        """For ``results.json``: each explainer; the images used of each shard; how many samples
        were corrupt; the probabilities of the targets of those that were left out for it; of how
        many images the classifier predicts another class than is explained, where that is known.
        """
        plan, described = self.plan, {}
        used, corrupt, unsure = [0] * len(plan.stems), 0, dict[str, float]()
        disagree: int | None = None
        for name, (cls, settings) in plan.explainers.items():
            seconds, corrupt, errors, agrees = 0.0, 0, [], list[bool]()
            for i, stem in enumerate(plan.stems):
                with plan.heatmaps.opened(name, stem) as file:
                    metadata = file.metadata()
                    if "completeness" in file.keys():  # noqa: SIM118 - not a dict
                        errors += file.get_tensor("completeness").tolist()
                    if "agrees" in file.keys():  # noqa: SIM118 - not a dict
                        agrees += file.get_tensor("agrees").tolist()
                used[i] = len(json.loads(metadata["keys"]))
                seconds += float(metadata["seconds"])
                corrupt += int(metadata["corrupt"])
                unsure |= json.loads(metadata.get("unsure", "{}"))
            described[name] = {
                "class": cls,
                "settings": settings,
                "unit": metadata["unit"],
                "signed": metadata["signed"] == "1",
                "trained_with": json.loads(metadata.get("trained_with", "{}")),
                "seconds_per_image": seconds / max(sum(used), 1),
            }
            if errors:  # of the sum that the method promises, relative to it
                described[name]["completeness_error"] = sum(errors) / len(errors)
            if len(agrees) == sum(used):  # heatmaps of an older version do not say
                disagree = agrees.count(False)
        return described, used, corrupt, unsure, disagree

    def _write_gallery(self, chosen: list[list[int]], described: dict[str, dict[str, Any]]) -> None:
        plan, gallery = self.plan, Gallery(self.plan.heatmaps, list(self.plan.explainers))
        for shard, rows in zip(plan.data.shards, chosen, strict=True):
            if rows:
                gallery.add(shard, plan.selected(shard), rows)
        gallery.save(self.out, described, plan.classifier.class_names)
        if self.panels:
            self._write_panels(gallery)

    def _write_panels(self, gallery: Gallery) -> None:
        from lit_iba.activity.panels import panels, write_panels

        classifier, keys = self.plan.classifier, gallery.keys[: self.panels]
        pictures, targets = (
            torch.cat(gallery.parts[name])[: self.panels] for name in ("pictures", "labels")
        )
        if self.plan.target == "predicted":
            with torch.no_grad():
                targets = classifier.targets(classifier.images(pictures)).cpu()
        figures, sums = panels(classifier, pictures, targets, names=keys)
        write_panels(
            self.out / "panels",
            figures,
            sums,
            targets,
            [re.sub(r"[^\w.+-]", "_", key) for key in keys],
        )


def _all_there(files: list[Path]) -> bool:
    return all(path.is_file() for path in files)


def shards_of(source: SampleSource | None) -> ShardIndex:
    """The shards that a data module reads.

    Raises:
        InputError: It reads something else.
    """
    if not isinstance(source, ShardSource):
        raise InputError(
            "a run's folder holds a file for each shard, but these data are no shards; write some "
            "with: lit-iba shards"
        )
    return ShardIndex(source.shards)


def _index_of(data: ShardIndex | Source) -> ShardIndex:
    return data if isinstance(data, ShardIndex) else ShardIndex.load(data)


def _source_of(data: ShardIndex | Source) -> str:
    """What to call the data in results and errors."""
    return str(data.shards[0].path.parent) if isinstance(data, ShardIndex) else str(data)

"""ROAR, remove and retrain: how much accuracy is lost for good when the pixels that a method finds
relevant are removed.

Hooker et al. (NeurIPS 2019); InputIBA (Zhang et al., NeurIPS 2021), section 4.4.3 and figure 6, on
CIFAR-10. Each method explains all training and test pictures; the top p % of the pixels of both are
replaced by the data set's mean colour; a network is trained from scratch on what is left. A cell is
one (method, p, seed); cells on disk are not trained again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from lit_iba import __version__
from lit_iba.checks import check_counts, check_literals, check_taken
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.weights import save_weights
from lit_iba.data import ShardIndex
from lit_iba.data.patterns import Source
from lit_iba.errors import InputError
from lit_iba.evaluation.benchmark import Benchmark
from lit_iba.evaluation.entries import Named, class_and_settings
from lit_iba.evaluation.results import summary_table
from lit_iba.evaluation.roar_pictures import colours_of, labelled_pictures, maps_of, sets_of
from lit_iba.evaluation.roar_ranks import most_relevant, relevance_ranks
from lit_iba.evaluation.roar_results import (
    EXPLAINED,
    ORIGINAL,
    RoarAccuracies,
    cell_name,
    check_explained,
)
from lit_iba.evaluation.roar_training import Pictures, Recipe, Retraining, hits, retrain
from lit_iba.explainer import explainer_class
from lit_iba.files import FolderLock, whole_file
from lit_iba.objectives.classes import needs_classes
from lit_iba.report.run_folder import GALLERY, RunFolder
from lit_iba.resumable.content import with_content
from lit_iba.resumable.store import ShardStore, sweep_abandoned

if TYPE_CHECKING:
    from lightning import Fabric


class Roar:
    """Remove and retrain.

    Args:
        train: Shards of training pictures.
        test: Shards of test pictures.
        explainers: Settings by name, as in :class:`Benchmark`: another name with
            ``explainer: NAME`` is an alias.
        out: Folder of the run: heatmaps of both sets, cells, ``results.json`` and what else a
            report needs.
        classifier: The network that is explained; None trains one by the recipe (that of the first
            seed, nothing removed) and keeps it as ``classifier.safetensors``.
        recipe: A :class:`Recipe` or its settings: ``network``, ``epochs``, ``batch_size``,
            ``learning_rate``, ``weight_decay``, ``decay_every``, ``decay``,
            ``validation_fraction``, ``augment``.
        percents: How much is removed, in percent of the pixels.
        seeds: One network for each, in every cell; equal seeds begin with equal weights, whatever
            the method.
        size: Side of the pictures in pixels, where no classifier says their size.
        batch_size: Pictures explained together.
        max_train: At most so many training pictures.
        max_test: At most so many test pictures.
        target: The class that is explained, ``"predicted"`` or ``"label"``; with ``"label"`` the
            shape of what is removed from a test picture tells the retrained network its label.
        statistics_images: How many training pictures feature statistics are estimated from.
        gallery: Test pictures kept for the report.
        fresh: Whether to delete what an earlier run left in ``out``.

    Raises:
        InputError: Unknown names or settings, or a class has another label in ``test``.

    Example:
        >>> from lit_iba.evaluation import Roar
        >>> recipe = {"network": "small_cnn", "epochs": 1}
        >>> settings = {"classifier": classifier, "recipe": recipe, "percents": [50], "seeds": [0]}
        >>> roar = Roar("digits/train", "digits/test", {"random": {}}, "roar", **settings)
        >>> results = roar.run()
        small_cnn, 16 images, mean ± standard...
        >>> list(results["results"]["roar"])
        ['random']
    """

    def __init__(
        self,
        train: ShardIndex | Source,
        test: ShardIndex | Source,
        explainers: Named,
        out: str | Path,
        *,
        classifier: FrozenClassifier | None = None,
        recipe: Recipe | dict[str, Any] | None = None,
        percents: Sequence[float] = (10, 30, 50, 70, 90),
        seeds: Sequence[int] = (0, 1, 2),
        size: int = 32,
        batch_size: int = 64,
        max_train: int | None = None,
        max_test: int | None = None,
        target: Literal["label", "predicted"] = "predicted",
        statistics_images: int = 1000,
        gallery: int = 12,
        fresh: bool = False,
    ) -> None:
        if not isinstance(recipe, Recipe):
            check_taken(Recipe, recipe or {}, "the recipe")
            recipe = Recipe(**(recipe or {}))
        self.recipe = recipe
        if not percents or not seeds or not all(0 < p < 100 for p in percents):
            raise InputError(
                f"percents are {list(percents)} and seeds {list(seeds)}; give percents between 0"
                " and 100, and seeds"
            )
        check_literals(Roar.__init__, locals())  # now, not after a network was trained
        check_counts(batch_size=batch_size, size=size, statistics_images=statistics_images)
        for name, count in (("gallery", gallery), *(("seeds", seed) for seed in seeds)):
            check_counts(0, **{name: count})
        for name, most in (("max_train", max_train), ("max_test", max_test)):
            if most is not None:
                check_counts(**{name: most})
        if not explainers:
            raise InputError("no explainers are given; name at least one, such as {random: {}}")
        for name, given in explainers.items():
            explainer_class(class_and_settings("explainer", name, given)[0])
        self.percents, self.seeds = sorted(set(percents)), list(dict.fromkeys(seeds))
        self.sets = sets_of(train, test)
        self.limits = {"train": max_train, "test": max_test}
        self.out, self.classifier, self.explainers = Path(out), classifier, dict(explainers)
        self.size: Any = size
        if classifier is not None:
            needs_classes(classifier.objective, "ROAR", "deletion", "retrains networks on classes")
            self.size = classifier.preprocessing.to_dict()["crop"]
        self.explaining: dict[str, Any] = {
            "batch_size": batch_size,
            "target": target,
            "statistics_images": statistics_images,
            "gallery": gallery,
        }
        self.fresh = fresh
        self.cells = ShardStore(self.out / "cells")

    @property
    def definition(self) -> str:
        """One sentence that says exactly what is measured."""
        r = self.recipe
        return (
            f"Test accuracy of networks ({r.network}) trained from scratch on pictures whose most"
            f" relevant {', '.join(f'{p:g}' for p in self.percents)} % of pixels, in training,"
            " validation and test, were replaced by the data set's mean colour (equal pixels in"
            " random order); the score is the mean over these percentages, mean and standard error"
            f" over the seeds {', '.join(map(str, self.seeds))}; Adam {r.learning_rate:g}, weight"
            f" decay {r.weight_decay:g}, learning rate times {r.decay:g} every {r.decay_every}"
            f" epochs, {r.epochs} epochs of batches of {r.batch_size}, shifts and mirroring"
            f" {'on' if r.augment else 'off'}, best of the epochs on {r.validation_fraction:.1%} of"
            " the training pictures"
        )

    def run(self, fabric: Fabric | None = None) -> dict[str, Any]:
        """Do what is missing, then write and return the results.

        Args:
            fabric: Says on which device; one process. By default the best device there is.

        Returns:
            The content of ``results.json``.

        Raises:
            InputError: The folder holds results of other settings or is in use, or pictures have no
                label.
        """
        if fabric is None:
            from lightning import Fabric

            fabric = Fabric(devices=1)
        lock = FolderLock(self.out)
        try:
            return self._run(fabric)
        finally:
            lock.release()

    def _run(self, fabric: Fabric) -> dict[str, Any]:
        if self.fresh:
            for folder in ("cells", *self.sets):
                shutil.rmtree(self.out / folder, ignore_errors=True)
            (self.out / "classifier.safetensors").unlink(missing_ok=True)
        sweep_abandoned(self.out)
        self.sets = {name: with_content(data, self.out) for name, data in self.sets.items()}
        crop = (
            Preprocessing(resize=None, crop=self.size)
            if self.classifier is None
            else self.classifier.preprocessing
        )
        loaded = {
            name: labelled_pictures(name, index, self.limits[name], crop)
            for name, index in self.sets.items()
        }
        pictures = {name: data for name, (data, _) in loaded.items()}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            accuracies = {(ORIGINAL, 0.0): self._original(pictures, fabric.device, progress)}
        benchmarks = {name: self._benchmark(name) for name in self.sets}
        explained = {name: benchmark.run(fabric) for name, benchmark in benchmarks.items()}
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            for method in self.explainers:
                missing = [
                    (p, seed)
                    for p in self.percents
                    for seed in self.seeds
                    if not self.cells.complete(
                        method, cell_name(p, seed), self._fingerprint(p, seed, benchmarks, method)
                    )
                ]
                ranks = (
                    {
                        name: relevance_ranks(maps_of(benchmarks[name], method), keys)
                        for name, (_, keys) in loaded.items()
                    }
                    if missing
                    else {}
                )
                for p, seed in missing:
                    kept = {
                        name: Pictures(data.pictures, data.labels, most_relevant(ranks[name], p))
                        for name, data in pictures.items()
                    }
                    fingerprint = self._fingerprint(p, seed, benchmarks, method)
                    self._train(method, p, seed, kept, fingerprint, fabric.device, progress)
                    if not console.is_terminal:
                        console.print(
                            f"{method}: {p:g} % removed, seed {seed} done", highlight=False
                        )
                for p in self.percents:
                    accuracies[method, p] = self._read(method, p)
        return self._finish(accuracies, explained)

    def _train(
        self,
        group: str,
        percent: float,
        seed: int,
        data: dict[str, Pictures],
        fingerprint: dict[str, Any],
        device: torch.device,
        progress: Progress,
    ) -> Retraining:
        """Train one cell and write its file; returns the trained module."""
        mean, std = colours_of(data["train"].pictures)
        task = progress.add_task(f"{group}, {percent:g} %, seed {seed}", total=self.recipe.epochs)
        names = self.sets["train"].class_names
        classes = len(names) if names else int(data["train"].labels.max()) + 1
        trained = retrain(
            data["train"],
            classes,
            self.recipe,
            mean,
            std,
            seed,
            device,
            lambda: progress.advance(task),
        )
        progress.remove_task(task)
        note: dict[str, str] = {}
        if group == ORIGINAL and self.classifier is None and seed == self.seeds[0]:
            self._keep_classifier(trained, classes)
            note[EXPLAINED] = "1"
        tensors = {
            "accuracy": hits(trained, data["test"]).float().mean(),
            "validation": torch.tensor(trained.best_accuracy),
        }
        self.cells.write(group, cell_name(percent, seed), tensors, fingerprint, note)
        return trained

    def _keep_classifier(self, trained: Retraining, classes: int) -> None:
        mean, std = (tuple(t.flatten().tolist()) for t in (trained.mean, trained.std))
        settings = {
            "num_classes": classes,
            "preprocessing": (
                Preprocessing(resize=None, crop=self.size, mean=mean, std=std).to_dict()
            ),
        }
        names = self.sets["train"].class_names
        save_weights(
            self.out / "classifier.safetensors",
            trained.network.state_dict(),
            settings | ({"class_names": names} if names else {}),
        )

    def _original(
        self, pictures: dict[str, Pictures], device: torch.device, progress: Progress
    ) -> Tensor:
        """Accuracy with all pixels, (seeds,); trains and loads the classifier if none was given."""
        weights = self.out / "classifier.safetensors"
        if self.classifier is None:
            check_explained(self.cells, self.seeds[0])
        for seed in self.seeds:
            fingerprint = self._fingerprint(0.0, seed)
            needed = self.classifier is None and seed == self.seeds[0] and not weights.is_file()
            if not self.cells.complete(ORIGINAL, cell_name(0, seed), fingerprint) or needed:
                self._train(ORIGINAL, 0.0, seed, pictures, fingerprint, device, progress)
        if self.classifier is None:
            self.classifier = FrozenClassifier(self.recipe.network, str(weights))
        return self._read(ORIGINAL, 0.0)

    def _read(self, group: str, percent: float) -> Tensor:
        """Accuracy of each seed, (seeds,)."""
        return torch.stack(
            [self.cells.read(group, cell_name(percent, seed))[0]["accuracy"] for seed in self.seeds]
        )

    def _benchmark(self, name: str) -> Benchmark:
        """The heatmaps of a set."""
        assert self.classifier is not None  # _original() has seen to it
        return Benchmark(
            self.classifier,
            self.sets[name],
            self.explainers,
            {},
            self.out / name,
            max_images=self.limits[name],
            statistics_data=self.sets["train"],
            statistics_folder=self.out / "statistics",
            **self.explaining,
        )

    def _fingerprint(
        self,
        percent: float,
        seed: int,
        benchmarks: dict[str, Benchmark] | None = None,
        method: str = "",
    ) -> dict[str, Any]:
        """What a cell depends on."""
        found: dict[str, Any] = {
            "lit_iba": __version__,
            "recipe": asdict(self.recipe),
            "percent": percent,
            "seed": seed,
            "size": self.size,
            "data": {name: index.identity() for name, index in self.sets.items()},
            "limits": self.limits,
        }
        for name, benchmark in (benchmarks or {}).items():
            found[name] = benchmark.plan.fingerprint(benchmark.plan.data.shards[0], method)
        return found

    def _finish(
        self, accuracies: dict[tuple[str, float], Tensor], explained: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        table = RoarAccuracies(list(self.explainers), self.percents, self.seeds, accuracies)
        results, test = table.results(), explained["test"]
        settings = {"recipe": asdict(self.recipe), "percents": self.percents, "seeds": self.seeds}
        content = RunFolder.heading() | {
            "classifier": test["classifier"],
            "data": test["data"] | {"train": explained["train"]["data"]},
            "explainers": test["explainers"],
            "metrics": {
                "roar": {
                    "class": "roar",
                    "settings": settings,
                    "definition": self.definition,
                    "better": "lower",
                }
            },
            "results": {"roar": {method: result.to_dict() for method, result in results.items()}},
        }
        RunFolder.write_rows(self.out, table.rows())
        with whole_file(self.out / GALLERY) as part:
            shutil.copyfile(self.out / "test" / GALLERY, part)
        explainers = {name: dict(settings or {}) for name, settings in self.explainers.items()}
        RunFolder.write_config(self.out, settings | {"explainers": explainers})
        written = RunFolder.write(self.out, content)
        Console().print(summary_table(written))
        return written

"""Explaining single photographs: files in, heatmaps, overlays, a table and a page out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import drawn
from lit_iba.cli.photographs import asked_target, distinct_stems, load_picture, open_photograph
from lit_iba.data.shards import ShardIndex
from lit_iba.errors import InputError
from lit_iba.evaluation.entries import class_and_settings
from lit_iba.evaluation.surroundings import OwnStatistics, StoredStatistics
from lit_iba.explainer import Explainer, build_explainer
from lit_iba.files import whole_file
from lit_iba.heatmap import Heatmap, save_picture
from lit_iba.report.explanations import labels_of, write_explanations
from lit_iba.training.trained_explainer import TrainedExplainer

PAGE = "explanations.html"
OWN = (
    "{}: bits are relative to the photograph itself, each channel's mean and deviation over the "
    "positions of this one photograph; statistics_data gives those of a data set."
)


def explain_photographs(
    paths: list[str],
    explainers: Mapping[str, dict[str, Any]],
    classifier: FrozenClassifier,
    target: str | None,
    out: str,
    statistics_data: str | list[str] | None,
    statistics_images: int,
    statistics_folder: str | None,
    batch_size: int,
) -> None:
    """Explain every photograph by every explainer, and print a table of the totals.

    For each there are ``<stem>.<explainer>.png`` (the map), ``.npy`` (its values), ``.overlay.png``
    (over the picture as the classifier sees it) and ``.photograph.jpg`` (over the whole photograph
    at its own size); ``explanations.html`` shows all of them, and ``<stem>.panel.png`` those of
    several explainers side by side. Pictures of maps with a unit have the scale of their colours
    beside them, in bits per pixel of the map that is drawn. Explainers that know their uncertainty
    add ``<stem>.<explainer>.deviation.{png,npy}``.

    Raises:
        InputError: A photograph is missing or damaged, or a name or setting is wrong; nothing is
            written then.
    """
    folder = Path(out)
    files = [Path(path) for path in paths]
    pictures = torch.stack([load_picture(path, classifier) for path in files])
    names = distinct_stems(files)
    kept = folder / "statistics"
    stored = stored_statistics(kept, statistics_data, statistics_images, statistics_folder)
    wanted = None if target is None else asked_target(target, classifier)
    targets, probabilities = asked_of(classifier, pictures, wanted, batch_size)
    with Progress(transient=True) as bar:
        runs = photograph_runs(explainers, classifier, pictures, stored, bar)
        heatmaps = {run.name: run.heatmaps(targets, batch_size) for run in runs}
    notes = [note for run in runs for note in run.notes(several=len(runs) > 1)]
    labels = labels_of({run.name: (run.cls, run.settings) for run in runs})
    stems = distinct_names(heatmaps)
    for i, (path, name) in enumerate(zip(files, names, strict=True)):
        for explainer, heatmap in heatmaps.items():
            stem = folder / f"{name}.{stems[explainer]}"
            _write(heatmap[i], pictures[i], stem)
            _write_photograph(heatmap[i], path, classifier, stem)
    said = [
        f"{classifier.objective.described(asked, classifier.class_names)} {float(p):.1%}"
        for p, asked in zip(probabilities, targets, strict=True)
    ]
    colours = drawn(pictures)
    if len(heatmaps) > 1:
        from lit_iba.report.side_by_side import save_side_by_side  # half a second of pyplot

        for i, name in enumerate(names):
            maps = {labels[explainer]: heatmap[i] for explainer, heatmap in heatmaps.items()}
            save_side_by_side(folder / f"{name}.panel.png", colours[i], said[i], maps)
    write_explanations(
        folder / PAGE,
        colours,
        names,
        said,
        heatmaps,
        labels,
        [("classifier", classifier.name), ("weights", Path(classifier.weights).name)],
        notes,
    )
    Console().print(_table(names, classifier, targets, probabilities, heatmaps))
    for note in notes:
        print(note)
    print(f"wrote {folder}; see {folder / PAGE}")


def distinct_names(explainers: Iterable[str]) -> dict[str, str]:
    """What files are called after each explainer: the last word of its name, and the whole name
    where that is another's, too.
    """
    last = {name: name.rpartition(".")[2] for name in explainers}
    counts = Counter(last.values())
    return {name: word if counts[word] == 1 else name for name, word in last.items()}


def stored_statistics(
    usual: Path, data: str | list[str] | None, images: int, folder: str | None
) -> StoredStatistics | None:
    """Statistics of a data set, where one or a folder of them is given; else None. What an earlier
    command has left in the usual folder is not taken unasked.
    """
    if data is None and folder is None:
        return None
    kept = usual if folder is None else Path(folder)
    return StoredStatistics(kept, None if data is None else ShardIndex.load(data), images)


def photograph_runs(
    explainers: Mapping[str, dict[str, Any]],
    classifier: FrozenClassifier,
    pictures: Tensor,
    stored: StoredStatistics | None,
    bar: Progress,
) -> list[PhotographRun]:
    """All explainers on the same pictures; one that does not fit the classifier is refused here,
    before another has worked.
    """
    return [
        PhotographRun(name, settings, classifier, pictures, stored, bar)
        for name, settings in explainers.items()
    ]


class PhotographRun:
    """One explainer on all photographs, uint8 (N, C, H, W).

    Where no statistics of a data set are to be had, each photograph has its own, so that what is
    said of one does not depend on the others.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        classifier: FrozenClassifier,
        pictures: Tensor,
        stored: StoredStatistics | None,
        bar: Progress,
    ) -> None:
        self.name, self.classifier, self.pictures = name, classifier, pictures
        self.cls, self.settings = class_and_settings("explainer", name, settings)
        self.bar = bar
        own = OwnStatistics(classifier.images(pictures[:1]))
        self._first = self._built(own if stored is None else stored)
        # Whether statistics of the photograph itself are needed.
        self.own = stored is None and bool(own.layers)
        # Where the explainer looks, or has its bottleneck, unless a training has settled it.
        trained = isinstance(self._first, TrainedExplainer)
        self.layer: str | None = None if trained else getattr(self._first, "layer", None)

    def heatmaps(self, targets: Tensor, batch_size: int) -> Heatmap:
        """The maps of all pictures, on the CPU."""
        done = self.bar.add_task(self.name, total=len(self.pictures))
        found = []
        for part, explainer in self._parts(1 if self.own else batch_size):
            images = self.classifier.images(self.pictures[part])
            found.append(explainer.attribute(images, target=targets[part].to(images.device)).cpu())
            self.bar.update(done, completed=part.stop)
        return joined(found)

    def notes(self, several: bool) -> list[str]:
        """A sentence on the layer, if nobody named one and it was chosen, and one on what bits are
        relative to, if on the photograph alone.
        """
        setting = f"--settings.{self.name}.layer" if several else "--settings.layer"
        chosen = f"{self.name}: layer {self.layer} was chosen by default; {setting} names another."
        unnamed = self.layer is not None and "layer" not in self.settings
        return [chosen] * unnamed + [OWN.format(self.name)] * self.own

    def _parts(self, size: int) -> Iterator[tuple[slice, Explainer]]:
        for start in range(0, len(self.pictures), size):
            part, explainer = slice(start, min(start + size, len(self.pictures))), self._first
            if self.own and start:
                explainer = self._built(OwnStatistics(self.classifier.images(self.pictures[part])))
            yield part, explainer

    def _built(self, surroundings: OwnStatistics | StoredStatistics) -> Explainer:
        explainer = build_explainer(self.cls, self.classifier, self.settings, surroundings)
        # A second bar appears once an explainer tells of its steps: InputIBA takes long enough.
        stages = self.bar.add_task("", visible=False)
        explainer.on_step = lambda stage, done, total: self.bar.update(
            stages, description=stage, completed=done, total=total, visible=done < total
        )
        return explainer


def joined(parts: list[Heatmap]) -> Heatmap:
    """The maps of several batches of one explainer as one."""

    def all_of(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return replace(
        parts[0],
        values=torch.cat([part.values for part in parts]),
        undrawn=all_of("undrawn"),
        completeness=all_of("completeness"),
        uncertainty=all_of("uncertainty"),
    )


@torch.no_grad()
def asked_of(
    classifier: FrozenClassifier, pictures: Tensor, wanted: float | None, size: int
) -> tuple[Tensor, Tensor]:
    """What is asked about each picture, (N, ...), and its probability, (N,)."""
    targets, probabilities = [], []
    for part in pictures.split(size):
        images = classifier.images(part)
        outputs = classifier(images)
        asked = (
            classifier.objective.predicted(outputs)
            if wanted is None
            else classifier.targets(images, wanted)
        )
        targets.append(asked.cpu())
        p = classifier.objective.probability(outputs, asked.to(outputs.device))
        probabilities.append(p.cpu())
    if not all(torch.isfinite(p).all() for p in probabilities):
        raise InputError(
            f"{classifier.name} gives probabilities that are no numbers; check its weights"
        )
    return torch.cat(targets), torch.cat(probabilities)


def _table(
    names: list[str],
    classifier: FrozenClassifier,
    targets: Tensor,
    probabilities: Tensor,
    heatmaps: Mapping[str, Heatmap],
) -> Table:
    counted = {name: heatmap for name, heatmap in heatmaps.items() if heatmap.unit != "1"}
    table = Table("image", "target", "probability", *(f"total, {name}" for name in counted))
    for i, name in enumerate(names):
        totals = [f"{float(map_[i].total):,.1f} {map_.unit}" for map_ in counted.values()]
        asked = classifier.objective.described(targets[i], classifier.class_names)
        if targets.ndim == 1 and classifier.num_classes:
            asked = f"{int(targets[i])} {asked}"
        table.add_row(escape(name), escape(asked), f"{float(probabilities[i]):.3f}", *totals)
    return table


def _write(heatmap: Heatmap, picture: Tensor, stem: Path) -> None:
    overlay = heatmap.with_color_bar(heatmap.overlay(picture[None]))
    save_picture(overlay[0], _beside(stem, ".overlay.png"))
    _write_map(heatmap, stem)
    if (deviation := heatmap.deviation()) is not None:
        _write_map(deviation, _beside(stem, ".deviation"))


def _write_map(heatmap: Heatmap, stem: Path) -> None:
    heatmap.save_png(_beside(stem, ".png"))
    with whole_file(_beside(stem, ".npy")) as part, part.open("wb") as file:
        np.save(file, heatmap.values[0].numpy())


def _write_photograph(
    heatmap: Heatmap, path: Path, classifier: FrozenClassifier, stem: Path
) -> None:
    """The map over the whole photograph; what the classifier does not see stays grey."""
    photograph = open_photograph(path, classifier.channels)
    left, top, right, bottom = (
        round(edge) for edge in classifier.preprocessing.crop_box(*photograph.size)
    )
    pixels = torch.from_numpy(photograph.pixels()).permute(2, 0, 1)
    nothing = Heatmap(torch.zeros(1, *pixels.shape[-2:]), fine=torch.zeros(1, dtype=torch.bool))
    whole = nothing.overlay(pixels[None], strength=0.0)[0]
    seen = heatmap.resize((bottom - top, right - left))
    whole[:, top:bottom, left:right] = seen.overlay(pixels[None, :, top:bottom, left:right])[0]
    save_picture(seen.with_color_bar(whole[None])[0], _beside(stem, ".photograph.jpg"))


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)

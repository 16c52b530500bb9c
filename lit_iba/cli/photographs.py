"""Explaining single photographs: files in, heatmaps and a table out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from lit_iba.classifier import FrozenClassifier
from lit_iba.data.decode import decode_photograph
from lit_iba.data.shards import ShardIndex
from lit_iba.errors import InputError, unknown_name
from lit_iba.evaluation.surroundings import StoredStatistics
from lit_iba.explainer import build_explainer
from lit_iba.files import whole_file
from lit_iba.heatmap import Heatmap, save_picture


def explain_photographs(
    paths: list[str],
    explainer_name: str,
    classifier: FrozenClassifier,
    settings: dict[str, Any],
    target: str | None,
    out: str,
    statistics_data: str | list[str] | None,
    statistics_images: int,
    statistics_folder: str | None,
    batch_size: int,
) -> None:
    """Write ``<stem>.<explainer>.{png,overlay.png,npy}`` for every photograph, and print their
    totals.

    Explainers that know their uncertainty add ``<stem>.<explainer>.deviation.{png,npy}``.

    Raises:
        InputError: A photograph is missing or damaged, or a name or setting is wrong; nothing is
            written then.
    """
    folder = Path(out)
    pictures = [load_picture(Path(path), classifier) for path in paths]
    names = distinct_stems([Path(path) for path in paths])
    surroundings = StoredStatistics(
        statistics_folder or folder / "statistics",
        None if statistics_data is None else ShardIndex.load(statistics_data),
        statistics_images,
    )
    wanted = None if target is None else class_index(target, classifier)
    explainer = build_explainer(explainer_name, classifier, settings, surroundings)
    table = Table("image", "target", "probability", "total")
    with Progress(transient=True) as bar:
        images_done, stage_done = (
            bar.add_task(explainer_name, total=len(paths)),
            bar.add_task("", visible=False),
        )
        # The second bar appears once an explainer tells of its steps: InputIBA takes long enough.
        explainer.on_step = lambda stage, done, total: bar.update(
            stage_done, description=stage, completed=done, total=total, visible=True
        )
        for start in range(0, len(paths), batch_size):
            batch = torch.stack(pictures[start : start + batch_size])
            images = classifier.images(batch)
            with torch.no_grad():
                probabilities = classifier(images).softmax(dim=1)
            targets = (
                probabilities.argmax(dim=1) if wanted is None else torch.full((len(batch),), wanted)
            )
            heatmap = explainer.attribute(images, target=targets).cpu()
            for i, name in enumerate(names[start : start + batch_size]):
                label = int(targets[i])
                _write(heatmap[i], batch[i], folder / f"{name}.{explainer_name.rpartition('.')[2]}")
                unit = (
                    f"{float(heatmap[i].total):,.1f} {heatmap.unit}" if heatmap.unit != "1" else "-"
                )
                table.add_row(
                    name,
                    f"{label} {classifier.class_names[label]}",
                    f"{float(probabilities[i, label]):.3f}",
                    unit,
                )
            bar.update(images_done, completed=min(start + batch_size, len(paths)))
    Console().print(table)
    print(f"wrote {folder}")


def _write(heatmap: Heatmap, picture: Tensor, stem: Path) -> None:
    save_picture(heatmap.overlay(picture[None])[0], stem.with_name(stem.name + ".overlay.png"))
    _write_map(heatmap, stem)
    if (deviation := heatmap.deviation()) is not None:
        _write_map(deviation, stem.with_name(stem.name + ".deviation"))


def _write_map(heatmap: Heatmap, stem: Path) -> None:
    heatmap.save_png(stem.with_name(stem.name + ".png"))
    with whole_file(stem.with_name(stem.name + ".npy")) as part, part.open("wb") as file:
        np.save(file, heatmap.values[0].numpy())


def load_picture(path: Path, classifier: FrozenClassifier) -> Tensor:
    """A photograph as the classifier's picture, uint8 (3, H, W).

    Raises:
        InputError: The file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"photograph {path} does not exist; check the path")
    return classifier.preprocessing.picture(decode_photograph(path.read_bytes(), str(path)))


def distinct_stems(paths: list[Path]) -> list[str]:
    """File names without suffix; with their folder in front where two are the same."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}_{i}"
        for i, (stem, path) in enumerate(zip(stems, paths, strict=True))
    ]


def class_index(target: str, classifier: FrozenClassifier) -> int:
    """A class by index or name.

    Raises:
        InputError: There is none such.
    """
    if target.lstrip("-").isdigit():
        index = int(target)
        if not 0 <= index < classifier.num_classes:
            raise InputError(
                f"target class {index} is out of range; the classifier has classes 0..{classifier.num_classes - 1}"
            )
        return index
    if target not in classifier.class_names:
        raise unknown_name(f"class of {classifier.name}", target, classifier.class_names)
    return classifier.class_names.index(target)

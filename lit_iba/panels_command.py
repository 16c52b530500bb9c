"""Decomposing the class scores of single photographs: files in, a picture of panels each and a table of sums out."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_iba.activity.panels import panels, write_panels
from lit_iba.classifier import FrozenClassifier
from lit_iba.explain_command import class_index, distinct_stems, load_picture


def panels_of_photographs(
    paths: list[str],
    classifier: FrozenClassifier,
    target: str | None,
    layers: list[str] | None,
    biases: bool,
    out: str,
) -> None:
    """Write ``<stem>.panels.png`` for every photograph and ``sums.json`` for all, and print the sums.

    Raises:
        InputError: A photograph is missing or damaged, or a name is wrong; nothing is written then.
    """
    folder = Path(out)
    pictures = torch.stack([load_picture(Path(path), classifier) for path in paths])
    names = distinct_stems([Path(path) for path in paths])
    if target is not None:
        targets = torch.full((len(paths),), class_index(target, classifier))
    else:
        with torch.no_grad():
            found = [classifier(classifier.images(picture)).argmax(dim=1) for picture in pictures.split(1)]
        targets = torch.cat(found).cpu()
    figures, sums = panels(classifier, pictures, targets, layers=layers, biases=biases, names=names)
    write_panels(folder, figures, sums, targets, names)
    table = Table("image", "class", "f_c", "layer", "activity", "biases above", "relative error")
    for i, name in enumerate(names):
        for j, layer in enumerate(sums.layers):
            first = [name, classifier.class_names[int(targets[i])], f"{sums.score[i]:.5g}"] if j == 0 else ["", "", ""]
            table.add_row(
                *first, layer, f"{sums.activity[i, j]:.5g}", f"{sums.bias_above[i, j]:.5g}", f"{sums.error[i, j]:.1e}"
            )
    Console().print(table)
    print(f"wrote {folder}")

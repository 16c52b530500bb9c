"""Decomposing the class scores of single photographs: files in, a picture of panels each and a table of sums out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_iba.activity.panels import panels, save_figure
from lit_iba.classifier import FrozenClassifier
from lit_iba.explain_command import class_index, distinct_stems, load_picture
from lit_iba.files import write_text


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
    table = Table("image", "class", "f_c", "layer", "activity", "biases above", "relative error")
    for i, (name, figure) in enumerate(zip(names, figures, strict=True)):
        save_figure(figure, folder / f"{name}.panels.png")
        for j, layer in enumerate(sums.layers):
            first = [name, classifier.class_names[int(targets[i])], f"{sums.score[i]:.5g}"] if j == 0 else ["", "", ""]
            table.add_row(
                *first, layer, f"{sums.activity[i, j]:.5g}", f"{sums.bias_above[i, j]:.5g}", f"{sums.error[i, j]:.1e}"
            )
    rows = {
        name: {
            "target": int(targets[i]), "score": float(sums.score[i]), "layers": sums.layers,
            "activity": sums.activity[i].tolist(), "bias_above": sums.bias_above[i].tolist(),
            "bias": {layer: float(value[i]) for layer, value in sums.bias.items()},
            "completeness_error": [None if value != value else value for value in sums.error[i].tolist()],
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    write_text(folder / "sums.json", json.dumps(rows, indent=1) + "\n")
    Console().print(table)
    print(f"wrote {folder}")

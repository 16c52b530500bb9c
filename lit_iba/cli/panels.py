"""``panels``: activity and bias attributions of every layer of a network, for single
photographs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARGUMENTS = [("images", "+", "photographs to decompose")]


def panels(
    images: list[str],
    classifier: dict[str, Any] | None = None,
    target: str | None = None,
    layers: list[str] | None = None,
    biases: bool = True,
    out: str = "outputs/panels",
    device: str = "auto",
) -> None:
    """Activity and bias attributions of every layer with their sums, a PNG a photograph, and all
    sums as JSON.

    Args:
        images: Photographs.
        classifier: ``model`` and ``weights``.
        target: Class to decompose, by name or index; by default the predicted one of each image.
        layers: The network's layers; by default they are found.
        biases: Whether to draw the bias attributions too.
        out: Folder for the results.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lit_iba.activity import panels as drawing
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.cli.photographs import asked_target, distinct_stems, load_picture

    network = classifier_from(classifier, None, device)
    folder = Path(out)
    pictures = torch.stack([load_picture(Path(path), network) for path in images])
    names = distinct_stems([Path(path) for path in images])
    asked = None if target is None else asked_target(target, network)
    found = [network.targets(network.images(picture), asked) for picture in pictures.split(1)]
    targets = torch.cat(found).cpu()
    figures, sums = drawing.panels(
        network, pictures, targets, layers=layers, biases=biases, names=names
    )
    drawing.write_panels(folder, figures, sums, targets, names)
    table = Table("image", "class", "f_c", "layer", "activity", "biases above", "relative error")
    for i, name in enumerate(names):
        for j, layer in enumerate(sums.layers):
            first = (
                [
                    escape(name),
                    escape(network.objective.described(targets[i], network.class_names)),
                    f"{sums.score[i]:.5g}",
                ]
                if j == 0
                else ["", "", ""]
            )
            table.add_row(
                *first,
                layer,
                f"{sums.activity[i, j]:.5g}",
                f"{sums.bias_above[i, j]:.5g}",
                f"{sums.error[i, j]:.1e}",
            )
    Console().print(table)
    print(f"wrote {folder}")

"""The section on the class score's decomposition by layers: the panels' pictures and what their
sums add up to.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations", figures 2 and 4,
equation 13. Read from the
folder ``panels`` of a run, which a benchmark with ``panels: n`` writes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from lit_iba.errors import InputError
from lit_iba.files import read_text
from lit_iba.report.naming import ABSENT, number
from lit_iba.report.pictures import png_uri
from lit_iba.report.templates import Markup, render

HEADS = ("Layer", "Activity", "Biases above", "Together", "Class score", "Largest error")
LEAD = (
    "A column a layer: the activity attribution and, below it, the bias attribution, each with its"
    " sum; red speaks for the class, blue against it. In a column, the activity's sum and the bias"
    " sums of all columns to its right make the class score."
)


@dataclass(frozen=True)
class Decompositions:
    """The panels of some images, and one row per layer: means over the images, and the largest
    relative error of any.
    """

    figures: dict[str, Path]
    rows: list[tuple[str, float, float, float, float, float]]

    @property
    def verdict(self) -> str:
        """Whether equation 13 holds, in a sentence."""
        errors = [row[-1] for row in self.rows]
        if any(math.isnan(error) for error in errors):
            return "The network is not piecewise linear: the sums need not make the class score."
        return f"The largest relative error of any image at any layer is {max(errors):.1e}."


def read_decompositions(folder: Path) -> Decompositions | None:
    """What ``panels`` left in a run folder, or None.

    Raises:
        InputError: sums.json is damaged.
    """
    path = folder / "sums.json"
    if not path.is_file():
        return None
    try:
        images = json.loads(read_text(path, "file"))
        first, count = next(iter(images.values())), len(images)
        rows = []
        for i, layer in enumerate(first["layers"]):
            activity, above, score = (
                sum(float(value) for value in values) / count
                for values in (
                    [image["activity"][i] for image in images.values()],
                    [image["bias_above"][i] for image in images.values()],
                    [image["score"] for image in images.values()],
                )
            )
            errors = [image["completeness_error"][i] for image in images.values()]
            largest = math.nan if None in errors else max(errors)
            rows.append((str(layer), activity, above, activity + above, score, largest))
    except (ValueError, KeyError, IndexError, TypeError, StopIteration, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, or run the benchmark again"
        ) from error
    figures = {name: folder / f"{name}.panels.png" for name in images}
    return Decompositions({name: file for name, file in figures.items() if file.is_file()}, rows)


def cells(row: tuple[str, float, float, float, float, float]) -> list[str]:
    """A row as text."""
    layer, *sums, error = row
    return [layer, *map(number, sums), ABSENT if math.isnan(error) else f"{error:.1e}"]


def decomposition_section(found: Decompositions) -> Markup:
    """The inside of the page's section."""
    return render(
        "report/layers.html",
        lead=LEAD,
        heads=HEADS,
        rows=[cells(row) for row in found.rows],
        pictures=[(name, png_uri(file.read_bytes())) for name, file in found.figures.items()],
        images=len(found.figures),
        verdict=found.verdict,
    )

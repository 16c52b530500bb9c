"""Photographs that ship with scikit-image, scikit-learn and matplotlib, to try things on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# Package and file; the packages are looked up and not imported.
EXAMPLES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


def example_photograph(name: str) -> Path | None:
    """The file of an example by its name; None where there is no such example, or its package is
    not installed.

    Example:
        >>> from lit_iba.data.examples import example_photograph
        >>> example_photograph("flower").name
        'flower.jpg'
    """
    package, file = EXAMPLES.get(name, ("", ""))
    found = importlib.util.find_spec(package) if package else None
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / file
    return path if path.is_file() else None

"""``recipe``: the text of a config that comes with the package."""

from __future__ import annotations

from lit_iba.cli.recipes import recipe_path
from lit_iba.files import read_text

ARGUMENTS = [("name", None, "one of lit-iba recipes")]


def recipe(name: str) -> None:
    """The text of a recipe, to be kept and changed.

    Args:
        name: One of those that ``lit-iba recipes`` lists.
    """
    print(read_text(recipe_path(name), "recipe"), end="")

"""``recipes`` and ``recipe``: the configs that come with the package, as a list, as text, and as
``--config recipe:NAME``.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from lit_iba.errors import InputError, unknown_name
from lit_iba.files import read_text

PREFIX = "recipe:"
# A setting that only configs of this command have, the most telling first.
_TOLD_BY = {
    "model": "fit",
    "percents": "roar",
    "vary": "sweep",
    "classifiers": "survey",
    "calibrated_severities": "uncertainty",
    "max_texts": "text-benchmark",
    "metrics": "benchmark",
    "explainer": "explain",
}
_NEEDED = {"data", "train", "val", "test", "checkpoint", "statistics_data"}
_COST = re.compile(r"^Cost: |\b(seconds|minutes?|hours?|day)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """A config that comes with the package.

    Args:
        name: Of its file; those of the quickstart begin with ``quickstart_``.
        command: Which command it is for; empty where it only changes another recipe, after which it
            is given.
        about: What it is for, the first sentence of its head.
        cost: Time that its head states, or empty.
        needs: What has to be there before it runs: data, checkpoints and weights that it names.
    """

    name: str
    command: str
    about: str
    cost: str
    needs: tuple[str, ...]


def recipe_folder() -> Path:
    """Where the configs are: beside the installed modules, or at the top of a checkout.

    Raises:
        InputError: They are in neither place.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise InputError(f"{package} holds no recipes; install lit_iba again")


def recipe_files() -> dict[str, Path]:
    """Name of every recipe, and its file."""
    folder = recipe_folder()
    return {_name(path, folder): path for path in sorted(folder.rglob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        InputError: No such recipe; the nearest names are listed.
    """
    files = recipe_files()
    if name not in files:
        raise unknown_name("recipe", name, files)
    return files[name]


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """Arguments in which the file stands wherever ``recipe:NAME`` is given as a config."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, separator, value = argument.partition("=")
        if before in ("-c", "--config") and argument.startswith(PREFIX):
            argument = str(recipe_path(argument.removeprefix(PREFIX)))
        elif separator and option == "--config" and value.startswith(PREFIX):
            argument = f"--config={recipe_path(value.removeprefix(PREFIX))}"
        found.append(argument)
    return found


def read_recipe(name: str) -> Recipe:
    """What a config says of itself in the comments at its head, and what it needs.

    Raises:
        InputError: No such recipe; the nearest names are listed.

    Example:
        >>> from lit_iba.cli.recipes import read_recipe
        >>> recipe = read_recipe("quickstart_readout")
        >>> recipe.command, recipe.cost
        ('fit', 'About a minute on two cores.')
    """
    import yaml

    text = read_text(recipe_path(name), "recipe")
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = " ".join(line.removeprefix("#").strip() for line in head)
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z0-9`])|\s+(?=Cost: )", said)
    settings = yaml.safe_load(text)
    alone = "--config THIS" not in said or "uncertainty" in said
    return Recipe(
        name,
        next(command for key, command in _TOLD_BY.items() if key in settings) if alone else "",
        sentences[0],
        next((sentence for sentence in sentences if _COST.search(sentence)), ""),
        tuple(dict.fromkeys(_needs(settings, ""))),
    )


def _name(path: Path, folder: Path) -> str:
    quick = path.relative_to(folder).parts[0] == "quickstart"
    return f"quickstart_{path.stem}" if quick else path.stem


def _needs(value: object, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("model"), str) and value.get("weights", "random") != "random":
            yield f"{value['weights']} of {value['model']}"
        for inner, held in value.items():
            yield from _needs(held, str(inner))
    elif isinstance(value, list):
        for held in value:
            yield from _needs(held, key)
    elif isinstance(value, str) and key in _NEEDED and "/" in value:
        yield value


def recipes() -> None:
    """The recipes: the command, what each is for, what it costs and what it needs."""
    width = shutil.get_terminal_size().columns
    for name in recipe_files():
        found = read_recipe(name)
        print(f"{name} ({found.command or 'given after another one'})")
        needs = f"Needs {', '.join(found.needs)}." if found.needs else ""
        for text in (found.about, found.cost, needs):
            if text:
                print(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  "))
    print(
        "\nlit-iba recipe NAME > my.yaml copies one; lit-iba COMMAND --config recipe:NAME runs one"
    )

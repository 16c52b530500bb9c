"""Every public class and function has an example in its docstring, and the example runs.

The names are those that ``lit_iba`` and its rooms export. Examples stand in a folder of their own,
with what ``docstring_names.py`` gives them: small data, and names such as ``classifier`` and
``images``.
"""

import doctest
import importlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docstring_names import shared_folder, shared_names
from test_public_names import EXPORTING, said_to_type_checkers

# A room's own names, each by the file that it stands in; lit_iba repeats some of its rooms' names.
SAID = [(home, name) for room in EXPORTING for name, home in said_to_type_checkers(room).items()]
PUBLIC = sorted({(home, name) for home, name in SAID if home not in EXPORTING})
WITHOUT_EXAMPLE = {
    "Shard": "one line of a ShardIndex, whose example shows it; nobody makes one by hand",
    "Carried": "an alias of types",
    "FORMATS": "a tuple of names",
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public(home: str, name: str) -> Any:
    """What a public name stands for."""
    return getattr(importlib.import_module(home), name)


def example_of(home: str, name: str) -> doctest.DocTest:
    """The examples in an object's own docstring; of a class, not those of its base."""
    docstring = inspect.cleandoc(
        vars(public(home, name)).get("__doc__") or public(home, name).__doc__ or ""
    )
    return doctest.DocTestParser().get_doctest(docstring, {}, f"{home}.{name}", None, 0)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield shared_folder(tmp_path_factory.mktemp("examples")), shared_names()


@pytest.mark.parametrize(
    ("home", "name"), [place for place in PUBLIC if place[1] not in WITHOUT_EXAMPLE]
)
def test_the_example_of_a_public_name_runs(
    home: str,
    name: str,
    names: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "TransformerTextClassifier":
        pytest.importorskip("transformers")
    test = example_of(home, name)
    assert test.examples, (
        f"{home}.{name} has no example; add lines that begin with >>> to its docstring"
    )
    assert any(example.want for example in test.examples), (
        f"the example of {home}.{name} shows no result"
    )
    folder, given = names
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    test.globs.update(given)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(
            test, out=said.append
        )
    assert result.failed == 0, "".join(said)


def test_exceptions_are_public_names_without_an_example() -> None:
    found = {name: home for home, name in PUBLIC}
    for name in WITHOUT_EXAMPLE:
        assert name in found, f"{name} is not public any more; take it off the list"
        if inspect.isclass(public(found[name], name)):
            assert not example_of(found[name], name).examples, (
                f"{name} has an example; take it off the list"
            )

"""Imports run one way: the layers that docs/architecture.md draws hold, and no files import each
other in a circle.

Every import counts, those inside functions too: an import that waits for the first call leads as
far as any other. The one exception is what a room's ``__init__`` imports for type checkers only,
which Python never does (see ``lit_iba/registry.py``); a name taken from a room counts as an import
of the file that the name stands in.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_ROOT_MODULES = 13


def drawn_layers() -> list[list[str]]:
    """Rooms and root modules as the document draws them, the highest row first."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.search(r"```layers\n(.*?)```", text, re.DOTALL)
    assert found, "docs/architecture.md holds no block of layers"
    return [line.split() for line in found[1].splitlines() if line.strip()]


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name; a folder's name stands for its ``__init__``."""
    named = {
        path.relative_to(package.parent).with_suffix("").parts: path
        for path in package.rglob("*.py")
    }
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
        for parts, path in sorted(named.items())
    }


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """Everything under ``if TYPE_CHECKING:``."""
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {node for block in blocks for statement in block.body for node in ast.walk(statement)}


class Imports:
    """What each file of a package imports of the same package."""

    def __init__(self, package: Path) -> None:
        self.name = package.name
        self.files = modules_of(package)
        self.trees = {
            name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()
        }
        self.exported = {
            (module, alias.asname or alias.name): f"{node.module}.{alias.name}"
            for module, path in self.files.items()
            if path.name == "__init__.py"
            for node in ast.walk(self.trees[module])
            if isinstance(node, ast.ImportFrom) and self.is_own(node.module)
            for alias in node.names
        }
        self.edges = {module: self._edges(module) for module in self.files}

    def is_own(self, module: str | None) -> bool:
        """Whether a module belongs to the package."""
        return module is not None and module.split(".")[0] == self.name

    def home(self, module: str, name: str) -> str:
        """The module behind ``from module import name``."""
        if f"{module}.{name}" in self.files:
            return f"{module}.{name}"
        if (module, name) in self.exported:
            return self.home(*self.exported[module, name].rsplit(".", 1))
        return module

    def _edges(self, module: str) -> set[str]:
        tree = self.trees[module]
        skipped = for_type_checkers(tree) if self.files[module].name == "__init__.py" else set()
        found: set[str] = set()
        for node in ast.walk(tree):
            if node in skipped:
                continue
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import; name the package"
                if node.module is not None and self.is_own(node.module):
                    found |= {self.home(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if self.is_own(alias.name)}
        return found - {
            self.name
        }  # the package itself is imported before any of its modules, and imports none of them

    def room(self, module: str) -> str:
        """The folder, or the root module, that a module belongs to."""
        return module.split(".")[1] if "." in module else self.name

    def uphill(self, layers: list[list[str]]) -> list[str]:
        """Imports that do not lead to a lower row or stay in their room."""
        row = {room: number for number, rooms in enumerate(reversed(layers)) for room in rooms}
        return [
            f"{module} imports {target}: {self.room(target)} is not below {self.room(module)}"
            for module, targets in self.edges.items()
            if module != self.name
            for target in sorted(targets)
            if self.room(target) != self.room(module)
            and row[self.room(target)] >= row[self.room(module)]
        ]

    def circle(self) -> list[str]:
        """Modules that import each other in a circle, the first one again at the end; empty if
        there is none.
        """
        done: set[str] = set()
        way: list[str] = []

        def walk(module: str) -> list[str]:
            if module in way:
                return [*way[way.index(module) :], module]
            if module in done:
                return []
            way.append(module)
            found = next(filter(None, map(walk, sorted(self.edges.get(module, ())))), [])
            way.pop()
            done.add(module)
            return found

        return next(filter(None, map(walk, self.edges)), [])


@pytest.fixture(scope="module")
def imports() -> Imports:
    return Imports(ROOT / "lit_iba")


def test_every_room_stands_in_the_drawing_once(imports: Imports) -> None:
    drawn = [room for row in drawn_layers() for room in row]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {imports.room(module) for module in imports.files} - {"lit_iba"}


def test_no_import_leads_uphill(imports: Imports) -> None:
    found = imports.uphill(drawn_layers())
    assert not found, "\n".join(found)


def test_no_files_import_each_other_in_a_circle(imports: Imports) -> None:
    found = imports.circle()
    assert not found, " imports ".join(found)


def test_few_modules_lie_at_the_root() -> None:
    assert len(list((ROOT / "lit_iba").glob("*.py"))) <= MOST_ROOT_MODULES


LAYERS = [["high"], ["low"], ["lazy"]]


def toy(folder: Path, **files: str) -> Imports:
    """A package of two rooms, ``high`` over ``low``; a file ``low__a`` is ``low/a.py``."""
    package = folder / "toy"
    whole = {
        "__init__": "",
        "lazy": "",
        "high____init__": "",
        "low____init__": "",
        "high__a": "",
        "low__a": "",
    } | files
    for name, text in whole.items():
        path = package / f"{name.replace('__', '/', 1) if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Imports(package)


@pytest.mark.parametrize(
    "text",
    [
        "from toy.high.a import x",
        "import toy.high.a",
        "def f():\n    from toy.high import a",
        "from toy.high import x",
    ],
)
def test_an_import_uphill_is_found_wherever_it_stands(tmp_path: Path, text: str) -> None:
    export = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.high.a import x as x"
    )
    assert toy(tmp_path, low__a=text, high____init__=export).uphill(LAYERS) == [
        "toy.low.a imports toy.high.a: high is not below low"
    ]


def test_downhill_imports_and_public_names_are_no_circle(tmp_path: Path) -> None:
    export = (
        "from typing import TYPE_CHECKING\nimport toy.lazy\nif TYPE_CHECKING:\n    from toy.low.b"
        " import y as y"
    )
    found = toy(
        tmp_path,
        low____init__=export,
        low__b="",
        low__a="from toy.low import y",
        high__a="from toy.low import y",
    )
    assert found.edges["toy.high.a"] == {"toy.low.b"}
    assert (found.uphill(LAYERS), found.circle()) == ([], [])


def test_a_circle_is_found_through_functions_and_public_names(tmp_path: Path) -> None:
    export = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.low.b import y as y"
    found = toy(
        tmp_path,
        low____init__=export,
        low__b="def y():\n    from toy.low import a",
        low__a="from toy.low import y",
    )
    assert found.circle() == ["toy.low.a", "toy.low.b", "toy.low.a"]

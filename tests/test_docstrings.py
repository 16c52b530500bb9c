"""Docstrings, pyproject.toml and private names tell the truth: what is named exists, and what is
private stays so.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "lit_iba").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
}
IMPORTED_AS = {
    "docstring_parser": "docstring-parser",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
}


def own_names() -> set[str]:
    """Every class and function, and every name that a class or a module assigns."""
    found = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def broken_references(text: str, names: set[str]) -> list[str]:
    """What a text refers to as a class, function, method or module of ours that is nowhere."""
    given = re.findall(r":(class|func|meth|attr|mod):`~?([^`]+)`", text)
    return [
        name
        for kind, name in given
        if name not in MODULES and (kind == "mod" or name.rsplit(".", 1)[-1] not in names)
    ]


def test_what_docstrings_refer_to_exists() -> None:
    names = own_names()
    found = {
        path.name: broken_references(path.read_text(encoding="utf-8"), names) for path in FILES
    }
    assert not {path: broken for path, broken in found.items() if broken}
    assert broken_references("a :class:`HookSplit`, :mod:`lit_iba.nowhere`", names) == [
        "HookSplit",
        "lit_iba.nowhere",
    ]


def parameters(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Names in the signature, or the fields of a dataclass."""
    init = node
    if isinstance(node, ast.ClassDef):
        inits = [
            part
            for part in node.body
            if isinstance(part, ast.FunctionDef) and part.name == "__init__"
        ]
        if not inits:
            fields = [part.target for part in node.body if isinstance(part, ast.AnnAssign)]
            return [field.id for field in fields if isinstance(field, ast.Name)]
        init = inits[0]
    assert isinstance(init, ast.FunctionDef)
    given = init.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in every if one is not None]


def out_of_order(tree: ast.AST) -> list[str]:
    """Classes and functions whose Args are no parameters, or stand in another order than these."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        block = re.search(
            r"^Args:\n((?:(?: .*)?\n?)*)", ast.get_docstring(node) or "", re.MULTILINE
        )
        heads = re.findall(r"^ {4}([*\w]+(?:, [*\w]+)*):", block[1], re.MULTILINE) if block else []
        said = [name.strip("* ") for head in heads for name in head.split(",")]
        given = parameters(node)
        if said != [name for name in given if name in said]:
            found.append(f"{node.name} says {said}, takes {given}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_args_stand_in_the_order_of_the_signature(path: Path) -> None:
    assert not out_of_order(TREES[path])


@pytest.mark.parametrize("said", ["b: B.\n        a: A.", "a: A.\n        c: C."])
def test_wrong_args_are_found(said: str) -> None:
    assert out_of_order(ast.parse(f'def f(a, b):\n    """F.\n\n    Args:\n        {said}\n    """'))


def test_whatever_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[<>=\[ ]", one)[0].lower() for given in lists for one in given}
    imported = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    outside = imported - sys.stdlib_module_names - {"lit_iba"}
    assert {IMPORTED_AS.get(name, name) for name in outside} <= declared


# private names of torch, Lightning, jsonargparse and os that have no public ones beside them
THEIRS = {
    "_BatchNorm",
    "_C",
    "_ConvNd",
    "_actions",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_buffers",
    "_cdata",
    "_compiled_call_impl",
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_current_graph_task_id",
    "_data_fetcher",
    "_ddp_kwargs",
    "_exit",
    "_foreach_norm",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_modules",
    "_linear_pointwise",
    "_is_tracing",
    "_are_functorch_transforms_active",
    "_new_shared",
    "_overloadpacket",
    "_parameters",
    "_reset_parameters",
    "_reversed_padding_repeated_twice",
    "_disabled_torch_function_impl",
    "_is_view",
    "_saved_min_val",
    "_should_check_val_fx",
    "_typehint",
    "_typehints",
    "_unsafe_view",
    "_version",
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(tree: ast.AST) -> set[str]:
    """Private names that a file takes from another one, or from an object whose class it does not
    define.
    """
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if private(alias.name)}
        elif isinstance(node, ast.Attribute) and private(node.attr):
            by = node.value.id if isinstance(node.value, ast.Name) else ""
            if by in ("self", "cls"):
                own.add(node.attr)
            else:
                found.add(node.attr)
    return found - own


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_stay_in_their_file(path: Path) -> None:
    assert foreign_private_names(TREES[path]) <= THEIRS


@pytest.mark.parametrize("text", ["from lit_iba.iba import _x", "network._x", "self.network._x()"])
def test_a_private_name_of_another_file_is_found(text: str) -> None:
    assert foreign_private_names(ast.parse(text)) == {"_x"}

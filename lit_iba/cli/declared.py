"""The arguments of a class, read from its source, so that a command takes them without declaring
them again.

jsonargparse's ``add_class_arguments`` needs the class itself, and with it torch: a command's
``--help`` would take seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, TypeVar

from docstring_parser import parse

from lit_iba.cli.docstrings import first_sentence, on_one_line

_Command = TypeVar("_Command", bound=Callable[..., None])


class _Lists:
    """What stands for ``tuple`` and ``Sequence``: the command line knows lists only."""

    def __class_getitem__(cls, item: Any) -> GenericAlias:
        return GenericAlias(list, (item[0] if isinstance(item, tuple) else item,))


# How a command line and a YAML file write what our classes take.
WRITTEN: dict[str, Any] = {
    "Any": Any,
    "Literal": Literal,
    "FrozenClassifier": dict[str, Any],
    "Mapping": dict,
    "Named": dict[str, Any],
    "NamedExplainers": dict[str, Any],
    "Path": str,
    "Recipe": dict[str, Any],
    "Sequence": _Lists,
    "ShardIndex": str,
    "Source": str | list[str],
    "tuple": _Lists,
}


def with_arguments_of(path: str, leave: Collection[str] = ()) -> Callable[[_Command], _Command]:
    """Let a command with ``**settings`` take a class's arguments there; those that it declares
    itself are its own.

    Args:
        path: Of the class. What it takes must be written in ``WRITTEN`` terms, and its defaults as
            literals.
        leave: Arguments that the command does not take, because it makes them itself.
    """

    def decorate(command: _Command) -> _Command:
        node = _class(path)
        signature = inspect.signature(command, eval_str=True)
        own = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        left = {*own, *leave}
        taken = {p.name: p for p in _parameters(node, left)}
        said = parse(inspect.getdoc(command) or "")
        docs = {
            p.arg_name: p.description
            for p in [*parse(ast.get_docstring(node) or "").params, *said.params]
        }
        # The class's come first, and among them those that must be given: they say what the command
        # is about.
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*taken.values(), *own.values())]
        parameters.sort(key=lambda p: p.default is not p.empty)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        lines = [f"    {p.name}: {on_one_line(docs.get(p.name) or '')}" for p in parameters]
        command.__doc__ = "\n".join([first_sentence(command.__doc__), "", "Args:", *lines])
        return command

    return decorate


def _class(path: str) -> ast.ClassDef:
    module, name = path.rsplit(".", 1)
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin if spec and spec.origin else module)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _parameters(node: ast.ClassDef, left: Collection[str]) -> Iterator[inspect.Parameter]:
    """The arguments of ``__init__``, or the fields of a dataclass."""
    found: list[tuple[str, ast.expr | None, ast.expr | None]] = []
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            args, defaults = item.args.args[1:], item.args.defaults
            given = [*[None] * (len(args) - len(defaults)), *defaults]
            pairs = [
                *zip(args, given, strict=True),
                *zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True),
            ]
            found = [(arg.arg, arg.annotation, default) for arg, default in pairs]
            break
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found.append((item.target.id, item.annotation, item.value))
    for name, written, default in found:
        if name in left:
            continue
        assert written is not None, f"{name} of {node.name} has no type"
        annotation = eval(ast.unparse(written), dict(WRITTEN))
        value = inspect.Parameter.empty if default is None else ast.literal_eval(default)
        value = list(value) if isinstance(value, tuple) else value
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation
        )

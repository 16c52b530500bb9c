"""Classes and public names, found when they are asked for: from a name in a config to a class (a
registered name, or a dotted path to a class of the user's own), and from a room to its public
names, which are imported on first use (PEP 562) so that importing a room stays fast.

A room's ``__init__`` says the same twice: imports for type checkers and editors, and the table for
Python::

    if TYPE_CHECKING:
        from lit_iba.iba.readout import ReadoutIBA as ReadoutIBA
    else:
        __all__, __getattr__, __dir__ = lazy_names(__name__, {"lit_iba.iba.readout":
        ["ReadoutIBA"]})

``tests/test_public_names.py`` holds that both agree.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from lit_iba.errors import InputError, unknown_name

T = TypeVar("T")


def class_named(name: str, kind: str, registered: Mapping[str, str], base: type[T]) -> type[T]:
    """The class that a name stands for.

    Args:
        name: A key of ``registered``, or a dotted class path.
        kind: What is named, for messages: ``"explainer"``.
        registered: Class paths by name.
        base: What the class must be a subclass of.

    Raises:
        InputError: No such name (the nearest ones are listed), or the class cannot be imported or
            is of another kind.
    """
    path = registered.get(name, name)
    if "." not in path:
        raise unknown_name(
            kind,
            name,
            registered,
            f"(or give a class path such as my_package.My{kind.capitalize()})",
        )
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{kind} {path!r} cannot be imported ({error}); check the class path: module and class,"
            " as in my_file.MyClass for a class of my_file.py in the current folder, on"
            " PYTHONPATH, or installed"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise InputError(
            f"{path!r} is no {base.__name__}; subclass {base.__module__}.{base.__name__}"
        )
    return found


def lazy_names(
    room: str, names: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """What a package needs to import its names on first use.

    Args:
        room: The package's ``__name__``.
        names: What it exports, by the module in which it stands.

    Returns:
        The package's ``__all__``, ``__getattr__`` and ``__dir__``.
    """
    homes = {name: module for module, exported in names.items() for name in exported}

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[room], name, found)  # from now on it is found without this function
        return found

    def names_of_the_room() -> list[str]:
        return sorted({*vars(sys.modules[room]), *homes})

    return sorted(homes), get, names_of_the_room

"""From a name in a config to a class: a registered name, or a dotted path to a class of the user's
own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
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

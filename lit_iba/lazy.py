"""A room's public names, imported when they are first used (PEP 562), so that importing a room
stays fast.

A room's ``__init__`` says the same twice: imports for type checkers and editors, and the table for
Python::

    if TYPE_CHECKING:
        from lit_iba.iba.readout import ReadoutIBA as ReadoutIBA
    else:
        __all__, __getattr__, __dir__ = lazy_names(__name__, {"lit_iba.iba.readout":
        ["ReadoutIBA"]})

``tests/test_public_names.py`` holds that both agree.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


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

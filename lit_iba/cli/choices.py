"""What the command line's parser refuses, said in one sentence, as the classes themselves refuse
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, get_args, get_origin
from unittest.mock import patch

from jsonargparse import ArgumentParser, _typehints

from lit_iba.cli.sentences import about_arguments
from lit_iba.errors import InputError

_REFUSED = re.compile(
    r'Parser key "([\w.]+)":\s+Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)'
)
_QUOTED = re.compile(r"(['\"])(.*)\1")


def with_setting(settings: object, path: str, value: object) -> dict[str, Any]:
    """A mapping with one setting changed below it, and all others kept.

    Args:
        settings: The mapping; anything else is taken for an empty one.
        path: Where, with dots between the names.
        value: What it becomes.

    Example:
        >>> from lit_iba.cli.choices import with_setting
        >>> with_setting({"preprocessing": {"resize": 128}}, "preprocessing.crop", 112)
        {'preprocessing': {'resize': 128, 'crop': 112}}
    """
    name, _, below = path.partition(".")
    kept = dict(settings) if isinstance(settings, Mapping) else {}
    if below:
        return {**kept, name: with_setting(kept.get(name), below, value)}
    return {**kept, name: value}


class _Text(str):
    """A text that YAML has read already: a quoted "2" stays one, and names a layer."""


@contextmanager
def settings_kept() -> Iterator[None]:
    """Settings of a mapping stay as they were written.

    With jsonargparse 4.53, ``--classifier.preprocessing.crop 112`` would drop the ``resize`` that
    an argument before it, or a config, gave; and a text in quotes would be read a second time, so
    that a layer "0.10" became the number 0.1.
    """
    library: Any = _typehints
    adapt = library.adapt_typehints

    def adapt_below(value: Any, kind: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(value, _Text):
            return str(value)
        if get_args(kind)[1:] == (Any,) and issubclass(get_origin(kind) or object, Mapping):
            if isinstance(value, library.NestedArg):
                # A number, where it is the text of one; and a text, where that is in quotes.
                quoted = _QUOTED.fullmatch(value.val) if isinstance(value.val, str) else None
                inner = quoted[2] if quoted else adapt(value.val, Any)
                value = with_setting(named.get("prev_val"), value.key, inner)
            if isinstance(value, Mapping):
                value = {k: _Text(v) if isinstance(v, str) else v for k, v in value.items()}
        return adapt(value, kind, *rest, **named)

    with patch.object(library, "adapt_typehints", adapt_below):
        yield


class ChoicesInOneSentence(ArgumentParser):
    """A parser whose word on a value that it refuses is one sentence, and that keeps what it was
    given.
    """

    _given: Sequence[str] = ()

    def parse_args(self, args: Any = None, *rest: Any, **settings: Any) -> Any:
        """Keeps the arguments, to say which config it is that has an unknown setting."""
        self._given = list(args or ())
        with settings_kept():
            return super().parse_args(args, *rest, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments."""
        # Parsers of a class within exit never: what they say is part of the message of the one
        # around them.
        if self.exit_on_error and (refused := _REFUSED.search(message)):
            setting, allowed, value = refused.groups()
            raise InputError(
                f"{setting.rpartition('.')[2]} is {value!r}; it must be one of {allowed}"
            ) from ex
        if self.exit_on_error:
            raise InputError(about_arguments(message, self._given)) from ex
        super().error(message, ex)

"""What the command line's parser refuses, said in one sentence, as the classes themselves refuse
it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from lit_iba.cli.sentences import about_arguments
from lit_iba.errors import InputError

_REFUSED = re.compile(
    r'Parser key "([\w.]+)":\s+Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)'
)


class ChoicesInOneSentence(ArgumentParser):
    """A parser whose word on a value that it refuses is one sentence."""

    _given: Sequence[str] = ()

    def parse_args(self, args: Any = None, *rest: Any, **settings: Any) -> Any:
        """Keeps the arguments, to say which config it is that has an unknown setting."""
        self._given = list(args or ())
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

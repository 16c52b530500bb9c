"""What a docstring says, for the help of a command."""

import inspect
import re


def on_one_line(text: str) -> str:
    """A description without line breaks and without Sphinx's roles."""
    return re.sub(r":\w+:`~?([^`]+)`", r"``\1``", " ".join(text.split()))


def first_sentence(docstring: str | None) -> str:
    """The first sentence, to its end: it may go over several lines."""
    paragraph = on_one_line(inspect.cleandoc(docstring or "").split("\n\n")[0])
    return re.split(r"(?<=[.:])\s(?=[A-Z`])", paragraph)[0]

"""What others say is wrong, in one sentence of ours: the system about files, the parser about
arguments.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_iba.errors import InputError
from lit_iba.files import read_text

_MENDS = {
    errno.ENOSPC: "free some space, or give another disk",
    errno.EDQUOT: "free some of your quota, or give another disk",
    errno.EFBIG: "give a disk and a limit that let files of this size be written",
    errno.EROFS: "give a folder that can be written to",
    errno.EACCES: "ask for the permission, or give another path",
    errno.EPERM: "ask for the permission, or give another path",
    errno.EEXIST: "a file is where a folder is needed; give another path",
    errno.ENOTDIR: "a file is where a folder is needed; give another path",
    errno.EISDIR: "a folder is where a file is needed; give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOENT: "check the path",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use fewer workers",
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
_LONGEST = 600  # characters of a sentence that quotes a parser
_ALIASES = 200  # of one config; thousands of them can stand for more values than memory holds
_CONFIG_BYTES = 1 << 20


def as_sentence(error: BaseException) -> InputError | None:
    """The sentence for an error that a user can mend, or that one of these has caused; None for all
    others.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return seen
        seen = seen.__cause__ or seen.__context__
    seen = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            place = seen.filename2 or seen.filename or "a file or a connection"
            mend = _MENDS.get(seen.errno, "check the path and its disk")
            return InputError(f"{place} cannot be used ({seen.strerror}); {mend}")
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return InputError("there is not enough memory; lower batch_size, or use smaller images")
        seen = seen.__cause__ or seen.__context__
    return None


def about_arguments(message: str) -> str:
    """What jsonargparse says of arguments, in one sentence."""
    text = " ".join(message.split())
    if wrong := re.search(
        r"Parser key \"([\w.]+)\": Expected an? <class '(\w+)'>\. Got value: (.*)", text
    ):
        setting, kind, value = wrong.groups()
        return f"{setting} is {value!r}; it must be {_KINDS.get(kind, kind)}"
    if missing := re.search(r"the following arguments are required: (.*)", text):
        return f"{missing[1]} must be given; see --help, or give a --config that has them"
    if unknown := re.search(r"unrecognized arguments: (.*)", text):
        return f"there are no arguments such as {unknown[1]}; see --help for those there are"
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return f"{text.rstrip('.')}; see --help for what there is"


def check_configs(arguments: Sequence[str]) -> None:
    """Look at the YAML files among the arguments before any parser does.

    Raises:
        InputError: One is missing, no text, no YAML, or stands for far more than it holds.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in ("-c", "--config"):
            _check_config(argument)
        elif argument.startswith("--config="):
            _check_config(argument.removeprefix("--config="))


def _check_config(given: str) -> None:
    import yaml

    path = Path(given)
    if len(given) > 4096 or "\n" in given or given.lstrip().startswith("{"):
        return  # not a file but its content, which jsonargparse takes too
    text = read_text(path, "config", _CONFIG_BYTES)
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise InputError(
            f"config {path} is no YAML{place} ({problem or error}); mend it"
        ) from error
    except RecursionError as error:
        raise InputError(f"config {path} is nested too deeply; mend it") from error
    if aliases > _ALIASES:
        raise InputError(
            f"config {path} has {aliases} aliases, more than {_ALIASES}; write values out"
        )


def shown(text: str) -> str:
    """Text as a terminal may show it: control characters, which could move the cursor or write
    elsewhere, are escaped.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def complain(error: InputError) -> int:
    """Print the sentence; returns the exit status."""
    print(f"error: {shown(' '.join(str(error).split()))}", file=sys.stderr)
    return 2

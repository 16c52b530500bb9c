"""What others say is wrong, in one sentence of ours: the system about files, the parser about
arguments.
"""

from __future__ import annotations

import dis
import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_iba.errors import InputError, shown
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
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "settings by name",
    "list": "a list",
}
_OF_A_GROUP = ("DistBackendError", "DistNetworkError", "DistStoreError")  # torch.distributed's
_LONGEST = 600  # characters of a sentence that quotes a parser
_ALIASES = 200  # of one config; thousands of them can stand for more values than memory holds
_DEPTH = 100  # of lists and mappings in each other
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
        if (found := _sentence(seen)) is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def _sentence(error: BaseException) -> InputError | None:
    name, said = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename2 or error.filename or "a file or a connection"
        return _about_file(error.errno, place, error.strerror)
    if rust := re.search(r'\(os error (\d+)\)(?: at path "(.*?)")?', said):  # of safetensors
        return _about_file(int(rust[1]), rust[2] or "a file")
    if name == "RuntimeError" and "PytorchStreamWriter failed" in said:
        return InputError("a file could not be written; free some space, or give another disk")
    if name in _OF_A_GROUP or (name == "RuntimeError" and "gloo/transport/" in said):
        reason = re.sub(r"^\[\S*\] ", "", said).partition(". ")[0].rstrip(".")
        return InputError(
            f"the processes of this run have lost each other ({_cut(reason)}): one of them has"
            " ended, or cannot be reached; look at what the others printed, and start again: what"
            " is saved is kept"
        )
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return InputError("there is not enough memory; lower batch_size, or use smaller images")
    if isinstance(error, ValueError) and _raised_in(error, "torch/optim"):
        return InputError(f"the optimizer refuses its settings ({said}); correct them")
    # Lightning's words for what a user can mend.
    if name == "MisconfigurationException" or (
        isinstance(error, ImportError | RuntimeError | ValueError) and _raised_by_lightning(error)
    ):
        return InputError(f"{_cut(said).rstrip('.')}; correct this setting")
    return None


def _about_file(number: int, place: str, reason: str | None = None) -> InputError:
    mend = _MENDS.get(number, "check the path and its disk")
    return InputError(f"{place} cannot be used ({reason or os.strerror(number)}); {mend}")


def _innermost(error: BaseException) -> TracebackType | None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place


def _raised_in(error: BaseException, folder: str) -> bool:
    place = _innermost(error)
    return place is not None and folder in Path(place.tb_frame.f_code.co_filename).as_posix()


def _raised_by_lightning(error: BaseException) -> bool:
    """Whether a ``raise`` of the trainer's own is what refused: an operation of its code that
    failed, or anything that it calls, may be a fault of the program and keeps its traceback.
    """
    place = _innermost(error)
    if place is None or not _raised_in(error, "lightning/pytorch/"):
        return False
    code = place.tb_frame.f_code.co_code
    return place.tb_lasti >= 0 and code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def about_arguments(message: str, arguments: Sequence[str] = ()) -> str:
    """What jsonargparse says of arguments, in one sentence.

    Args:
        message: Its message.
        arguments: What it was given; where a config among them has an unknown option, it is named.
    """
    text = " ".join(message.split())
    # What it tried: types one after the other, and what it made of the text itself.
    text = re.sub(r" - Expected an? (<class 'NoneType'>|path but .*? invalid)", "", text)
    text = re.sub(r" ?Given value type: .*", "", text)
    text = re.sub(r"Subtypes: \[.*?\] (?=Errors:)", "", text)
    value = re.search(r"Given value: (.*)", " ".join(message.split()))
    if wrong := re.search(
        r"Parser key \"([\w.]+)\": Expected an? <class '(\w+)'>\. Got value: (.*)", text
    ):
        setting, kind, given = wrong.groups()
        return f"{setting} is {given!r}; it must be {_KINDS.get(kind, kind)}"
    if missing := re.search(r"the following arguments are required: (.*)", text):
        return f"{missing[1]} must be given; see --help, or give a --config that has them"
    if unknown := re.search(r"unrecognized arguments: (.*)", text):
        first = unknown[1].split()[0]
        last = max((at for at, given in enumerate(arguments) if given == first), default=0)
        options = [given for given in arguments[:last] if given.startswith("--")]
        if options and not first.startswith("-"):
            return (
                f"{first} follows {options[-1]}, which takes one value; put commas between several,"
                " and what has no name before all options"
            )
        return f"there are no arguments such as {unknown[1]}; see --help for those there are"
    if problem := re.search(r"Problem with given class_path '([\w.]+)': (.*)", text):
        made, reason = problem.groups()
        if option := re.search(r"Option '([\w.]+)' is not accepted", reason):
            return f"{made} has no setting {option[1]!r}; see --help for those there are"
        if setting := re.search(r"Parser key \"([\w.]+)\": Does not validate .*", reason):
            return f"{setting[1]} of {made} must be {_wanted(setting[0])}"
        return f"{made} cannot be made so ({_cut(reason).rstrip('. ')}); correct that"
    if option := re.search(r"(?:accept o|O)ption '([\w.]+)'", text):
        where = _where(option[1], arguments)
        return f"there is no setting {option[1]!r}{where}; see --help for those there are"
    if union := re.search(r"Parser key \"([\w.]+)\": Does not validate .* Errors: - (.*)", text):
        shown = repr(_cut(value[1])) if value else "not as expected"
        return f"{union[1]} is {shown}; it must be {_wanted(union[2])}"
    return f"{_cut(text).rstrip('.')}; see --help for what there is"


def _wanted(errors: str) -> str:
    """What a value may be, from a parser's words on each kind that it is not."""
    kinds = re.findall(r"Expected an? <class '(\w+)'>", errors)
    words = [_KINDS.get(kind, kind) for kind in kinds]
    names = re.findall(r"Expected an? typing.Literal\[(.*?)\]", errors)
    words += [f"one of {', '.join(names)}"] if names else []
    return " or ".join(words) or _cut(errors)


def _where(setting: str, arguments: Sequence[str]) -> str:
    """The config that has a setting, where one has."""
    word = re.compile(rf"^\s*{re.escape(setting.rpartition('.')[2])}\s*:", re.MULTILINE)
    for path in configs_among(arguments):
        if len(path) < 4096 and Path(path).is_file() and word.search(read_text(path, "config")):
            return f" (in config {path})"
    return ""


def configs_among(arguments: Sequence[str]) -> list[str]:
    """What the arguments give as ``--config``."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [
        argument.removeprefix("--config=")
        for before, argument in pairs
        if before in ("-c", "--config") or argument.startswith("--config=")
    ]


def check_configs(arguments: Sequence[str]) -> None:
    """Look at the YAML files among the arguments before any parser does.

    Raises:
        InputError: One is missing, empty, no text, no YAML, has a name twice, or stands for far
            more than it holds.
    """
    for given in configs_among(arguments):
        _check_config(given)


def _check_config(given: str) -> None:
    import yaml

    path = Path(given)
    if len(given) > 4096 or "\n" in given or given.lstrip().startswith("{"):
        return  # not a file but its content, which jsonargparse takes too
    text = read_text(path, "config", _CONFIG_BYTES)
    aliases = depth = 0
    try:
        for event in yaml.parse(text):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise InputError(f"config {path} is nested more than {_DEPTH} deep; mend it")
            if aliases > _ALIASES:
                raise InputError(
                    f"config {path} has more than {_ALIASES} aliases; write values out"
                )
        content = yaml.safe_load(text)
        _check_names(path, yaml.compose(text, yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" in line {mark.line + 1}" if mark else ""
        said = " ".join(str(problem or error).split())
        raise InputError(f"config {path} is no YAML{place} ({said}); mend it") from error
    if content is None:
        raise InputError(f"config {path} is empty; write name: value, or leave it out")
    if not isinstance(content, dict):
        raise InputError(
            f"config {path} is a {type(content).__name__}, not settings by name; write name: value"
        )


def _check_names(path: Path, node: Any) -> None:
    """That no mapping has a name twice, of which YAML keeps the last without a word."""
    lines = dict[str, int]()
    for name, below in node.value if node is not None and node.id == "mapping" else ():
        line = name.start_mark.line + 1
        if name.id == "scalar" and lines.setdefault(name.value, line) != line:
            raise InputError(
                f"config {path} has {name.value!r} in line {lines[name.value]} and again in line"
                f" {line}, which would replace it; leave one out, or give it another name"
            )
        _check_names(path, below)
    for below in node.value if node is not None and node.id == "sequence" else ():
        _check_names(path, below)


def complain(error: InputError) -> int:
    """Print the sentence; returns the exit status."""
    print(f"error: {shown(' '.join(str(error).split()))}", file=sys.stderr)
    return 2

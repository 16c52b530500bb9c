"""Which tars a user's words stand for: a folder, a file, a list, or a pattern such as
``val-{000000..000049}.tar`` or ``val-*.tar``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from lit_iba.data.tar_samples import ENDINGS
from lit_iba.errors import InputError
from lit_iba.limits import check_limit

Source = str | Path | Sequence[str | Path]
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?|([A-Za-z])\.\.([A-Za-z])(?:\.\.-?\d+)?")
_MARK = re.compile("\0([0-9]+)\0")


def tars_of(source: Source) -> list[Path]:
    """The tars that a folder, a pattern or a list stands for."""
    if not isinstance(source, str | Path):
        found = [tar for part in source for tar in tars_of(part)]
        if not found:
            raise InputError("the list of shards is empty; give at least one .tar file")
        return found
    text = str(source)
    if Path(text).is_dir():
        found = sorted(path for end in ENDINGS for path in Path(text).glob(f"*{end}"))
    else:
        # What exists under a name is meant as it stands, whatever brackets are in it.
        start, rest = _existing_start(Path(text))
        found = []
        for name in expand_braces(rest, text) if rest else [""]:
            matches = sorted(start.glob(name)) if re.search(r"[*?\[]", name) else []
            found += matches or [start / name]
    if not found:
        raise InputError(
            f"no shards found at {text!r}; give a folder of .tar files, a list, or a pattern"
        )
    for tar in found:
        if not tar.is_file():
            raise InputError(f"shard {tar} does not exist; correct the path or fetch it")
    return found


def _existing_start(path: Path) -> tuple[Path, str]:
    """The longest beginning of a path that exists, and the rest."""
    start = next((part for part in (path, *path.parents) if part.exists()), Path(path.anchor))
    return start, "" if start == path else str(path.relative_to(start))


def expand_braces(pattern: str, named: str = "") -> list[str]:
    """The names that a pattern stands for, in order: ``{000..012}``, ``{0..20..5}``, ``{a..c}``,
    ``{train,val}`` and one within another, as WebDataset and bash expand them.

    Args:
        pattern: With braces or without; a backslash is a character like any other.
        named: What to call it in an error, where it is only a part of what the user wrote.

    Raises:
        InputError: It stands for too many names, or a brace has no partner.
    """
    from braceexpand import braceexpand

    shown = (named or pattern)[:200]
    # Counted first: the expansion keeps every part of a pattern in memory.
    check_limit("SHARDS", _count(pattern), f"the number of shards that {shown!r} stands for")
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise InputError(
            f"a brace in {shown!r} has no partner; write such as val-{{000..049}}.tar"
        ) from error


def _count(pattern: str) -> int:
    """How many names a pattern stands for, at most; by its innermost braces first, each of which
    becomes a mark that says how many names it stands for.
    """
    counts: list[int] = []

    def product(text: str) -> int:
        return math.prod(counts[int(number)] for number in _MARK.findall(text))

    def mark(braces: re.Match[str]) -> str:
        ends = _RANGE.fullmatch(braces[1])
        if ends is None:
            counts.append(sum(map(product, braces[1].split(","))))
        elif ends[3]:
            counts.append(abs(ord(ends[4]) - ord(ends[3])) + 1)
        else:  # a step makes them fewer; nobody has numbers of more than eighteen digits
            counts.append(abs(int(ends[2][:19]) - int(ends[1][:19])) + 1)
        return f"\0{len(counts) - 1}\0"

    text = pattern.replace("\0", "")
    while (marked := _INNERMOST.sub(mark, text)) != text:
        text = marked
    return product(text)

"""Which tars a user's words stand for: a folder, a file, a list, or a pattern such as
``val-{000000..000049}.tar`` or ``val-*.tar``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lit_iba.errors import InputError
from lit_iba.limits import check_limit

Source = str | Path | Sequence[str | Path]
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def tars_of(source: Source) -> list[Path]:
    """The tars that a folder, a pattern or a list stands for."""
    if not isinstance(source, str | Path):
        found = [tar for part in source for tar in tars_of(part)]
        if not found:
            raise InputError("the list of shards is empty; give at least one .tar file")
        return found
    text = str(source)
    if Path(text).is_dir():
        found = sorted(Path(text).glob("*.tar"))
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
    """Expand ``{000..012}`` and ``{a,b}``, from left to right.

    Args:
        pattern: With braces or without.
        named: What to call it in an error, where it is only a part of what the user wrote.

    Raises:
        InputError: It stands for too many names.
    """
    count = 1
    for first, last, words in _BRACES.findall(pattern):
        size = words.count(",") + 1 if words else int(last[:19]) - int(first[:19]) + 1
        count *= max(size, 0)
    check_limit(
        "SHARDS", count, f"the number of shards that {(named or pattern)[:200]!r} stands for"
    )
    return _expanded(pattern)


def _expanded(pattern: str) -> list[str]:
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        values = match[3].split(",")
    else:
        values = [str(n).zfill(len(match[1])) for n in range(int(match[1]), int(match[2]) + 1)]
    return [
        head
        for v in values
        for head in _expanded(pattern[: match.start()] + v + pattern[match.end() :])
    ]

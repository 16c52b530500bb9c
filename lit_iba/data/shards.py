"""Shards of samples (WebDataset tars) and the index that says what is in them.

An index counts, so that the order of samples is arithmetic (see plan.py) and a short shard cannot
pass unseen. Members of one sample are contiguous and share a key: ``<key>.jpg`` or ``.png``,
``<key>.cls``, ``<key>.json`` and ``<key>.mask.png``. Where the class stands elsewhere, the index
says it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from lit_iba.data.labels import USUAL, LabelRule
from lit_iba.data.patterns import Source, expand_braces, tars_of
from lit_iba.data.remote import Remote, is_remote
from lit_iba.data.shard import INDEX_NAME, Shard, counted, is_file_name
from lit_iba.data.tar_samples import HEADER_BYTES, PACKED
from lit_iba.errors import InputError
from lit_iba.files import sha256_of, write_text
from lit_iba.limits import check_limit, largest_content, limit

SCHEMA = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardIndex:
    """The shards of one data set, in order.

    Args:
        shards: At least one.
        class_names: Name of each class, where they are known.
        label: Where the class of a sample stands; see :meth:`labelled`.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> ShardIndex.load("digits/test").total
        8
    """

    shards: tuple[Shard, ...]
    class_names: list[str] | None = None
    label: str = USUAL

    @classmethod
    def load(cls, source: Source, remote: Remote | None = None) -> ShardIndex:
        """Find shards and what is known about them.

        Args:
            source: A folder, the path of an ``index.json``, a tar, a list of tars, or a pattern
                such as ``val-{000000..000049}.tar`` or ``val-*.tar``. Shards without an index are
                counted, which reads their headers; :meth:`save` keeps the result. All of it may
                also live elsewhere: at ``http(s)://``, in a bucket such as ``s3://`` (with an
                ``index.json``, or else every shard is fetched once to count it), and
                ``pipe:COMMAND``.
            remote: How to fetch what lives elsewhere.

        Raises:
            InputError: Nothing is there, a shard is missing or truncated, or the index cannot be
                read.
        """
        if isinstance(source, str) and is_remote(source):
            return remote_index(source, remote or Remote())
        if (
            isinstance(source, Sequence)
            and not isinstance(source, str)
            and any(map(is_remote, source))
        ):
            parts = [(str(part), cls.load(part, remote)) for part in source]
            return _joined(parts, [s for _, part in parts for s in part.shards])
        if isinstance(source, str | Path):
            path = Path(source)
            if path.suffix == ".json":
                return _read_index(path, remote)
            if path.is_dir() and (path / INDEX_NAME).exists():
                return _read_index(path / INDEX_NAME, remote)
        return _gather(tars_of(source))

    def labelled(self, label: str, class_names: Sequence[str] | None = None) -> ShardIndex:
        """The same shards, with the class of a sample where others put it.

        Args:
            label: A member such as ``cls`` or ``txt``, or a field of a JSON member such as
                ``json.label``. What stands there is a number, or the name of a class.
            class_names: Names in the order of the labels, in place of the index's.

        Example:
            >>> from lit_iba.data import ShardIndex
            >>> ShardIndex.load("digits/test").labelled("json.synset").label
            'json.synset'
        """
        names = self.class_names if class_names is None else list(class_names)
        rule = ShardIndex((), names, label).rule
        return ShardIndex(tuple(replace(s, label=rule) for s in self.shards), names, label)

    @property
    def rule(self) -> LabelRule | None:
        """What ``label`` and ``class_names`` say of a shard; None for its ``cls`` members."""
        return None if self.label == USUAL else LabelRule(self.label, tuple(self.class_names or ()))

    @property
    def total(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.count for shard in self.shards)

    def verify(self, hashes: bool = False) -> None:
        """Compare the files with the index: existence and size, and on demand their content.

        Args:
            hashes: Also read every byte and compare SHA-256.

        Raises:
            InputError: A shard is missing, or is not the one that was indexed.
        """
        for shard in self.shards:
            if shard.url is not None:
                continue  # compared when it is fetched
            if not shard.path.is_file():
                raise InputError(
                    f"shard {shard.path} does not exist, but the index names it; fetch it again"
                )
            size = shard.path.stat().st_size
            if size != shard.bytes:
                raise InputError(
                    f"shard {shard.path} has {size:,} bytes, but the index says {shard.bytes:,}; "
                    f"fetch it again, or delete {INDEX_NAME} to have the shards counted again"
                )
            if hashes and shard.sha256 is not None and sha256_of(shard.path) != shard.sha256:
                raise InputError(
                    f"the content of shard {shard.path} is not what was indexed; fetch it again"
                )

    def identity(self) -> str:
        """SHA-256 over the shards' names, counts, sizes and hashes, and where their classes stand:
        equal for equal data, wherever it lies.
        """
        described = [[shard.name, shard.count, shard.bytes, shard.sha256] for shard in self.shards]
        label: list[Any] = [] if self.label == USUAL else [self.label]
        rules = [shard.label for shard in self.shards]
        if any(rule != self.rule for rule in rules):  # of several indices
            label.append([rule and asdict(rule) for rule in rules])
        content = json.dumps([described, self.class_names, *label])
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write ``index.json`` beside the shards; returns its path.

        Raises:
            InputError: A shard lies in another folder.
        """
        folder = Path(folder)
        for shard in self.shards:
            if shard.path.parent.resolve() != folder.resolve():
                raise InputError(
                    f"shard {shard.path} is not in {folder}; an index lies beside its shards"
                )
        write_text(folder / INDEX_NAME, self.text())
        return folder / INDEX_NAME

    def text(self, at: str | None = None) -> str:
        """What ``index.json`` holds.

        Args:
            at: The shards' folder or its address, for an index that does not lie beside them.
        """
        content = {
            "schema": SCHEMA,
            "class_names": self.class_names,
            **({} if self.label == USUAL else {"label": self.label}),
            **({} if at is None else {"at": at}),
            "shards": [
                {
                    "name": s.name,
                    "count": s.count,
                    "bytes": s.bytes,
                    "sha256": s.sha256 or sha256_of(s.path),
                }
                for s in self.shards
            ],
        }
        return json.dumps(content, indent=1) + "\n"


def _read_index(path: Path, remote: Remote | None = None) -> ShardIndex:
    def place(name: str, at: str | None) -> dict[str, Any]:
        # An index of the user's own may be of shards elsewhere; a fetched one is not asked.
        if at is not None and is_remote(at):
            return {"path": Path(name), "url": f"{at}/{name}", "remote": remote or Remote()}
        return {"path": path.parent / (at or "") / name}

    try:
        check_limit("INDEX_BYTES", path.stat().st_size, f"the size of {path} in bytes")
        return parse_index(path.read_bytes(), path, place)
    except FileNotFoundError as error:
        raise InputError(
            f"index {path} does not exist; give a folder of shards or the path of its index"
        ) from error
    except OSError as error:
        raise InputError(
            f"index {path} cannot be read ({error.strerror}); give a folder of shards or the path"
            " of its index"
        ) from error


def parse_index(
    data: bytes, path: str | Path, place: Callable[[str, str | None], dict[str, Any]]
) -> ShardIndex:
    """An index from the bytes of an ``index.json``.

    Args:
        data: The bytes.
        path: What to call it in an error.
        place: From a shard's name, and the index's ``at``, to where it is: ``path``, ``url`` and
            ``remote`` of :class:`Shard`.

    Raises:
        InputError: The bytes are not an index, or name no shards.
    """
    try:
        content = json.loads(data)
        if content["schema"] != SCHEMA:
            raise InputError(
                f"{path} has schema {content['schema']}, but this version reads {SCHEMA}; index"
                " again"
            )
        at, label = (_checked_text(content, name) for name in ("at", "label"))
        shards = tuple(_described(s, lambda name: place(name, at)) for s in content["shards"])
        names = _checked_names(content.get("class_names"))
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not an index of shards ({error!r}); delete it to have them counted"
        ) from error
    if not shards:
        raise InputError(f"{path} names no shards; write some, or give another folder")
    index = ShardIndex(shards, names)
    return index if label is None else index.labelled(label)


def _checked_text(content: dict[str, Any], name: str) -> str | None:
    found = content.get(name)
    if found is not None and not (isinstance(found, str) and found):
        raise ValueError(f"{name} is no text")
    return found


def _described(entry: dict[str, Any], place: Callable[[str], dict[str, Any]]) -> Shard:
    """A shard of an index, whose numbers a tar of that size can hold and whose name leads nowhere
    else.
    """
    name, count, size, sha256 = (entry.get(k) for k in ("name", "count", "bytes", "sha256"))
    if not isinstance(name, str) or not is_file_name(name):
        raise ValueError(f"{str(name)[:80]!r} is not the name of a file beside it")
    # A sample takes a header at least; a size is compared with the file's when it is opened.
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (count, size))
    most = largest_content(int(size or 0)) if whole and name.endswith(PACKED) else size
    if not whole or not 0 < int(count or 0) <= int(most or 0) // HEADER_BYTES <= 1 << 52:
        raise ValueError(f"{name} cannot have {count} samples in {size} bytes")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        raise ValueError(f"{name} has no SHA-256 such as {str(sha256)[:80]!r}")
    return Shard(count=int(count or 0), bytes=int(size or 0), sha256=sha256, **place(name))


def _checked_names(names: object) -> list[str] | None:
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ValueError("class_names is no list of texts")
    return names


def _gather(tars: list[Path]) -> ShardIndex:
    """Shards from the indices that lie beside them; those in no index are counted."""
    indices = {
        folder: _read_index(folder / INDEX_NAME)
        if (folder / INDEX_NAME).exists()
        else ShardIndex(())
        for folder in dict.fromkeys(tar.parent for tar in tars)
    }
    known = {shard.path: shard for index in indices.values() for shard in index.shards}
    uncounted = [tar for tar in tars if tar not in known]
    start = time.monotonic()
    keys: set[str] = set()
    for tar in dict.fromkeys(uncounted):
        known[tar] = replace(counted(tar, others=keys), label=indices[tar.parent].rule)
    if uncounted:
        _log.info(
            "counted %d shards without an index in %.1f s; ShardIndex.save keeps it",
            len(uncounted),
            time.monotonic() - start,
        )
    _say_packed(tars)
    return _joined(
        [(str(folder), index) for folder, index in indices.items()], [known[tar] for tar in tars]
    )


def _joined(parts: Sequence[tuple[str, ShardIndex]], shards: Sequence[Shard]) -> ShardIndex:
    """One index of several parts' shards, whose classes must be the same where both are known.

    Raises:
        InputError: They are not, or a shard stands there twice.
    """
    named = [(name, part.class_names) for name, part in parts if part.class_names]
    for (one, first), (other, second) in pairwise(named):
        if first != second:
            pairs = enumerate(zip_longest(first, second))
            number, (mine, theirs) = next(item for item in pairs if item[1][0] != item[1][1])
            raise InputError(
                f"the classes of {one} and {other} differ ({number} is {mine!r} in one and"
                f" {theirs!r} in the other), so that a label would mean two things; write both"
                " shards with the same class_names"
            )
    twice = [s for s, count in Counter(s.url or str(s.path) for s in shards).items() if count > 1]
    if twice:
        raise InputError(f"shard {twice[0]} is given twice; name each once")
    return ShardIndex(
        tuple(shards),
        _common([part.class_names for _, part in parts]),
        _common([part.label for _, part in parts]) or USUAL,
    )


def _common(values: list[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _say_packed(tars: Sequence[Path]) -> None:
    packed = [tar for tar in tars if tar.name.endswith(PACKED)]
    if packed:
        _log.warning(
            "%s%s: a packed shard is unpacked whole each time it is read, which is slow; gunzip it"
            " where it is read more than once",
            packed[0],
            f" and {len(packed) - 1} more" if len(packed) > 1 else "",
        )


def remote_index(source: str, remote: Remote) -> ShardIndex:
    """The index of shards that live elsewhere.

    Raises:
        InputError: They cannot be had, or no index lies at a folder's address.
    """
    if "." not in source.rpartition("/")[2] and not source.startswith("pipe:"):
        source = source.rstrip("/") + "/"  # a folder
    if source.endswith(("/", ".json")):
        address = source if source.endswith(".json") else source + INDEX_NAME
        base = address.rpartition("/")[0]
        return parse_index(
            remote.read(address, limit("INDEX_BYTES")),
            address,
            lambda n, _: {"path": Path(n), "url": f"{base}/{n}", "remote": remote},
        )
    urls = expand_braces(source)
    known: dict[str | None, Shard] = {}
    index = ShardIndex(())
    if not source.startswith("pipe:"):
        try:
            index = remote_index(urls[0].rpartition("/")[0] + "/", remote)
            known = {shard.url: shard for shard in index.shards}
        except InputError as error:
            _log.warning(
                "no index beside %s (%s): its shards are fetched once to count them", urls[0], error
            )
    shards = tuple(
        known.get(url) or replace(counted(url, remote), label=index.rule) for url in urls
    )
    return ShardIndex(shards, index.class_names, index.label)

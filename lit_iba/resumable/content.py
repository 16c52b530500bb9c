"""What shards hold, by their bytes: an index says what they held when it was written."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from lit_iba.data import Shard, ShardIndex
from lit_iba.errors import InputError
from lit_iba.files import sha256_of, write_text

_log = logging.getLogger(__name__)
HASHES = "shard_hashes.json"


def with_content(
    data: ShardIndex, folder: str | Path, only: Collection[str] | None = None
) -> ShardIndex:
    """The same shards with the SHA-256 of what their files hold now.

    A tar's size is padded to 10 KiB, so that corrected labels or boxes keep it. Hashes are kept in
    the folder, and made again for files whose size or time of change is another; shards elsewhere
    keep those of their index, which are compared when they are fetched.

    Args:
        data: The shards.
        folder: Of the run.
        only: Stems of the shards that are used; None for all.

    Raises:
        InputError: A shard is missing, or holds something else than its index says.

    Example:
        >>> from lit_iba.data import ShardIndex
        >>> from lit_iba.resumable import with_content
        >>> data = ShardIndex.load("digits/test")
        >>> with_content(data, "run").shards[0].sha256 == data.shards[0].sha256
        True
    """
    path = Path(folder) / HASHES
    known = _read(path)
    found = {
        shard: _sha256(shard, known)
        for shard in data.shards
        if shard.url is None and (only is None or shard.stem in only)
    }
    entries = {str(shard.path.resolve()): entry for shard, entry in found.items()}
    if any(known.get(name) != entry for name, entry in entries.items()):
        write_text(path, json.dumps(known | entries, indent=1) + "\n")
    shards = (
        replace(shard, sha256=str(found[shard][2])) if shard in found else shard
        for shard in data.shards
    )
    return replace(data, shards=tuple(shards))


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept if isinstance(kept, dict) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        _log.warning("%s is damaged (%s); shards are hashed again", path, error)
        return {}


def _sha256(shard: Shard, known: dict[str, list[int | str]]) -> list[int | str]:
    """[size, time of change in nanoseconds, hash] of a shard's file."""
    try:
        stat = shard.path.stat()
        entry = known.get(str(shard.path.resolve()))
        if not isinstance(entry, list) or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = [stat.st_size, stat.st_mtime_ns, sha256_of(shard.path)]
    except OSError as error:
        raise InputError(
            f"shard {shard.path} cannot be read ({error.strerror}); correct the path or fetch it"
        ) from error
    if shard.sha256 not in (None, entry[2]):
        raise InputError(
            f"the content of shard {shard.path} is not what was indexed; fetch it again, or delete"
            " index.json to have the shards counted anew"
        )
    return entry

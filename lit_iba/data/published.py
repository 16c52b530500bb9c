"""Indices for shards that others published: counted, hashed and with their classes once, so that no
run reads them for that again. The shards stay as they are, on this machine or elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from lit_iba.data.buckets import listing, write
from lit_iba.data.labels import USUAL, LabelRule, is_number
from lit_iba.data.patterns import expand_braces, tars_of
from lit_iba.data.remote import Remote, is_remote
from lit_iba.data.shard import INDEX_NAME, counted
from lit_iba.data.shards import ShardIndex
from lit_iba.data.tar_samples import ENDINGS, RawSample
from lit_iba.errors import InputError
from lit_iba.files import write_text

_log = logging.getLogger(__name__)


def index_shards(
    source: str | Sequence[str],
    out: str | Path | None = None,
    label: str = USUAL,
    class_names: Sequence[str] | None = None,
    *,
    remote: Remote | None = None,
    progress: bool = True,
) -> ShardIndex:
    """Write an ``index.json`` for shards that have none; every byte of them is read once.

    Args:
        source: A folder, a pattern or a list of tars, here or elsewhere (``s3://bucket/folder``;
            at ``http(s)://`` a pattern with braces, because nobody can list a folder there).
        out: Folder of the index; None writes it beside the shards, which a bucket must allow.
        label: Where the class of a sample stands: a member such as ``cls`` or ``txt``, or a field
            of a JSON member such as ``json.label`` or ``json.synset``.
        class_names: Names in the order of the labels. Without them labels that are texts make
            their own, sorted: the usual order of ImageNet's synsets.
        remote: How shards elsewhere are fetched.
        progress: Whether to show a progress bar.

    Raises:
        InputError: There are no shards, one is damaged, they lie in several folders, a label cannot
            be read, or the index cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from lit_iba.data import ShardIndex, index_shards
        >>> index_shards("digits/test", "indices", progress=False).total
        8
        >>> ShardIndex.load("indices").shards[0].count
        8
    """
    places = _places(source, remote or Remote())
    at = _folder_of(places)
    labels = _Labels(LabelRule(label))
    keys: set[str] = set()
    shards = tuple(
        counted(place, remote, keys, labels, hashed=True)
        for place in track(places, "indexing shards", transient=True, disable=not progress)
    )
    index = ShardIndex(shards).labelled(label, labels.names(class_names))
    if out is not None:
        elsewhere = at if is_remote(at) else str(Path(at).resolve())
        write_text(Path(out) / INDEX_NAME, index.text(elsewhere))
    elif not is_remote(at):
        index.save(at)
    elif at.startswith(("http://", "https://", "pipe:")):
        raise InputError(f"an index cannot be written to {at}; give a folder of your own as out")
    else:
        write(f"{at}/{INDEX_NAME}", index.text().encode(), (remote or Remote()).storage_options)
    return index


@dataclass
class _Labels:
    """Reads the label of every sample, and collects those that are texts."""

    rule: LabelRule
    texts: set[str] = field(default_factory=set)
    without: int = 0

    def __call__(self, sample: RawSample) -> None:
        found = self.rule.value(sample)
        if found is None:
            self.without += 1
        elif isinstance(found, str) and not (self.rule.selector == USUAL or is_number(found)):
            self.texts.add(found)

    def names(self, given: Sequence[str] | None) -> list[str] | None:
        """The class names: those that are given, or else the texts."""
        if self.without:
            _log.warning("%d samples have no %s and no label", self.without, self.rule.selector)
        if given is None:
            return sorted(self.texts) or None
        if unknown := self.texts - set(given):
            raise InputError(
                f"the label {min(unknown)!r} is none of the {len(given)} class names; add it"
            )
        return list(given)


def _places(source: str | Sequence[str], remote: Remote) -> list[str | Path]:
    """Every shard's path or address."""
    if not isinstance(source, str):
        return [place for part in source for place in _places(part, remote)]
    if not is_remote(source):
        return list(tars_of(source))
    if "*" not in source and (source.endswith(ENDINGS) or source.startswith("pipe:")):
        return list(expand_braces(source))
    if source.startswith(("http://", "https://")):
        raise InputError(f"nobody can list {source}; give a pattern such as val-{{000..049}}.tar")
    found = listing(source, ENDINGS, remote.storage_options)
    if not found:
        raise InputError(f"no shards found at {source}; give a folder of .tar files, or a pattern")
    return list(found)


def _folder_of(places: Sequence[str | Path]) -> str:
    """The folder, or its address, in which all shards lie."""
    folders = {
        place.rpartition("/")[0] if isinstance(place, str) else str(place.parent)
        for place in places
    }
    if len(folders) != 1:
        few = ", ".join(sorted(folders)[:3])
        raise InputError(f"the shards lie in {len(folders)} folders ({few}); index one at a time")
    return folders.pop()

"""Exports on their way to others and back: to a folder, a bucket or the Hugging Face Hub.

What arrives is compared with the hashes in ``explainer.json`` before it takes its name, names are
those of an export and no others, and nothing that arrives is run.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_iba.data import buckets
from lit_iba.data.remote import is_remote
from lit_iba.errors import InputError
from lit_iba.export.artefact import as_text, check_folder, hashes
from lit_iba.files import FULL, read_text, sha256_of, whole_file, write_text
from lit_iba.training.exported import (
    DOCUMENTS,
    FILES,
    METADATA_FILE,
    README_FILE,
    check_description,
    check_export,
    read_description,
    recorded_files,
)

_MOST = 1 << 26  # bytes of an explainer.json


def push_export(
    folder: str | Path, address: str, storage_options: Mapping[str, Any] | None = None
) -> list[str]:
    """Copy an export to another folder, or to wherever fsspec can write.

    The programs must be those that were exported. README and model card go as they are, so they may
    have been edited. ``explainer.json`` is written last, so that a reader in between finds that it
    does not fit.

    Args:
        folder: An export.
        address: A folder, or an address such as ``s3://bucket/readout`` or ``hf://user/readout``.
        storage_options: What the address's fsspec driver takes, such as credentials.

    Returns:
        Names of the files.

    Raises:
        InputError: The folder is no whole export, something else lives at the address, or nothing
            can be written there.

    Example:
        >>> from lit_iba.export import pull_export, push_export
        >>> push_export("runs/exported", "memory://explainers/readout")
        ['explainer.safetensors', 'README.md', 'explainer.md', 'explainer.json']
        >>> pull_export("memory://explainers/readout", "pulled")["explainer"]["name"]
        'readout_iba'
    """
    folder, there = Path(folder), _Place(address, storage_options or {})
    description = check_export(folder)
    there.check_is_free()
    documents = [name for name in DOCUMENTS if (folder / name).is_file()]
    names = [*description["files"], *documents]
    description["documents"] = hashes(folder, documents)
    for name in names:
        there.put(folder / name, name)
    with tempfile.TemporaryDirectory(prefix="lit_iba_") as scratch:
        path = Path(scratch) / METADATA_FILE
        write_text(path, as_text(description))
        there.put(path, METADATA_FILE)
    return [*names, METADATA_FILE]


def pull_export(
    address: str, folder: str | Path, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fetch an export, compare every file with its SHA-256, and only then put it into a folder.

    The hashes say that the files are whole and belong together, not who made them.

    Args:
        address: Where :func:`push_export` has put it.
        folder: Where it goes; an export that is there already is replaced.
        storage_options: As in :func:`push_export`.

    Returns:
        The content of ``explainer.json``.

    Raises:
        InputError: There is no export at the address, a file is not the one that was pushed, or
            something else lives in the folder.

    Example:
        >>> from lit_iba.export import pull_export
        >>> pull_export("memory://explainers/nothing", "pulled")
        Traceback (most recent call last):
            ...
        lit_iba.errors.InputError: memory://explainers/nothing/explainer.json cannot be had: ...
    """
    folder, there = Path(folder), _Place(address, storage_options or {})
    check_folder(folder)
    before = read_description(folder) if (folder / METADATA_FILE).is_file() else {}
    with contextlib.ExitStack() as stack:
        first = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lit_iba_")))
        there.get(METADATA_FILE, first / METADATA_FILE, _MOST)
        source = there.named(METADATA_FILE)
        description = check_description(read_text(first / METADATA_FILE, source), source)
        recorded = recorded_files(description, source)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, and so on its file system.
        beside = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
        scratch = Path(stack.enter_context(beside))
        for name, (sha256, size) in recorded.items():
            there.get(name, scratch / name, size)
            if sha256_of(scratch / name) != sha256:
                raise InputError(
                    f"{there.named(name)} is not the file that was pushed (its sha256 differs);"
                    " push it again"
                )
        # The description last: until then a reader finds that it does not fit.
        for name in recorded:
            with whole_file(folder / name) as part:
                (scratch / name).replace(part)
        with whole_file(folder / METADATA_FILE) as part:
            shutil.copyfile(first / METADATA_FILE, part)
    stale = {*before.get("files", ()), *before.get("documents", ())} & {*FILES, *DOCUMENTS}
    for name in stale - recorded.keys():
        (folder / name).unlink(missing_ok=True)
    return description


class _Place:
    """A folder here, or an address that fsspec knows."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        if not address.strip("/ "):
            raise InputError("the address is empty; give a folder, or one such as s3://bucket/name")
        self.remote, self.address = is_remote(address), address.rstrip("/")
        self.options = options

    def named(self, name: str) -> str:
        return f"{self.address}/{name}"

    def check_is_free(self) -> None:
        """Refuse a place in which other things than an export live."""
        if not self.remote:
            check_folder(Path(self.address))
            return
        taken = buckets.exists(self.named(README_FILE), self.options)
        if taken and not buckets.exists(self.named(METADATA_FILE), self.options):
            raise InputError(
                f"{self.address} has a README.md of something else; give the export a place of its"
                " own"
            )

    def get(self, name: str, path: Path, most: int) -> None:
        if self.remote:
            buckets.get(self.named(name), path, most, self.options)
            return
        source = Path(self.named(name))
        try:
            size = source.stat().st_size if source.is_file() else None
            if size is not None and size <= most:
                shutil.copyfile(source, path)
                return
        except OSError as error:
            if error.errno in FULL:  # where it is copied to
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise InputError(
                f"{source} cannot be read ({error.strerror}); give a folder that you may read"
            ) from error
        said = "is not there" if size is None else f"has {size:,} bytes, more than {most:,}"
        raise InputError(f"{source} {said}; give the folder of a whole export")

    def put(self, path: Path, name: str) -> None:
        if self.remote:
            buckets.put(path, self.named(name), self.options)
            return
        target = Path(self.named(name))
        if target.exists() and target.samefile(path):
            return
        with whole_file(target) as part:
            shutil.copyfile(path, part)

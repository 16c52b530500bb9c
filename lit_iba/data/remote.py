"""Shards that live elsewhere: fetched whole over http(s) or from a bucket, or made by a command,
and kept in a cache of limited size.

A shard is fetched into a file and then read like any other: a cut connection is taken up where it
broke, and what arrives is compared with the index before a byte of it is decoded. Errors that may
pass (no answer, 5xx, a broken connection) are tried again with growing pauses; those that will not
(404, 403) are reported at once.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from lit_iba.data.buckets import fetch_rest, is_final
from lit_iba.errors import InputError
from lit_iba.files import sha256_of, whole_file
from lit_iba.limits import limit

_CHUNK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_log = logging.getLogger(__name__)


def is_remote(source: object) -> bool:
    """Whether a source is a URL or a command.

    Example:
        >>> from lit_iba.data.remote import is_remote
        >>> [is_remote(given) for given in ("s3://bucket/val", "pipe:cat x.tar", "data/val")]
        [True, True, False]
    """
    return re.match(r"pipe:|[a-z][a-z0-9+.-]+://", str(source)) is not None


@dataclass(frozen=True)
class Remote:
    """How shards are fetched.

    Args:
        cache_dir: Folder that keeps fetched shards; None keeps each only while it is read.
        cache_gib: Size at which the least recently used shards leave the cache, in GiB.
        attempts: How often a shard is asked for before the run ends in an error.
        timeout: Seconds without a byte after which a connection counts as broken.
        allow_pipe: Whether ``pipe:COMMAND`` may run a shell command; off, because whoever writes
            the list of shards would then run commands as the user.
        storage_options: What the bucket's fsspec driver takes, such as ``{"anon": true}`` or
            ``{"endpoint_url": ...}``; without any it finds credentials where its own tools do.

    Example:
        >>> from lit_iba.data import Remote
        >>> Remote(cache_dir="cache", attempts=2).allow_pipe
        False
    """

    cache_dir: str | None = None
    cache_gib: float = 100.0
    attempts: int = 5
    timeout: float = 60.0
    allow_pipe: bool = False
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def open(self, url: str, size: int | None = None, sha256: str | None = None) -> BinaryIO:
        """Fetch a file, or take it from the cache, and open it.

        Args:
            url: ``http://``, ``https://``, whatever fsspec knows (``s3://``), or ``pipe:COMMAND``.
            size: Its bytes, where they are known.
            sha256: Likewise; compared after fetching.

        Raises:
            InputError: It is not there, cannot be had after all attempts, or is another file than
                expected.
        """
        if self.cache_dir is None:
            return self._whole(url, limit("SHARD_BYTES"), size, sha256)
        path = (
            Path(self.cache_dir)
            / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{file_name(url)}"
        )
        for _ in range(3):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                with whole_file(path) as part:
                    self._fetch(url, part, size, sha256)
                    # Opened under this name, because another process may throw it out at once.
                    file = part.open("rb")
                self._make_room(path)
                return file
            if _is_the_one(file, size, sha256):
                # When it was used last; its time of change stays, which says what was compared.
                with suppress(FileNotFoundError):
                    os.utime(path, ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
                return file
            file.close()
            path.unlink(missing_ok=True)
        raise InputError(
            f"{self.cache_dir} does not keep {file_name(url)} as it was fetched; give this run a"
            " cache_dir of its own"
        )

    def _whole(
        self, url: str, most: int, size: int | None = None, sha256: str | None = None
    ) -> BinaryIO:
        with tempfile.TemporaryDirectory(prefix="lit_iba_") as folder:
            path = Path(folder) / "shard.tar"
            self._fetch(url, path, size, sha256, most)
            return path.open("rb")  # stays readable after its name is gone

    def read(self, url: str, most: int) -> bytes:
        """The content of a small file, of at most so many bytes.

        Raises:
            InputError: As :meth:`open`.
        """
        with self._whole(url, most) as file:
            return file.read()

    def _fetch(
        self, url: str, path: Path, size: int | None, sha256: str | None, most: int | None = None
    ) -> None:
        # One byte more than it should have says that it is another file.
        most = (limit("SHARD_BYTES") if most is None else most) if size is None else size
        if url.startswith("pipe:"):
            self._run(url.removeprefix("pipe:"), path, most)
        else:
            self._download(url, path, most)
        found = path.stat().st_size
        if size is not None and found != size:
            raise InputError(
                f"{url} has {found:,} bytes, but the index says {size:,}; index the shards again"
            )
        if sha256 is not None and sha256_of(path) != sha256:
            raise InputError(
                f"the content of {url} is not what was indexed; index the shards again"
            )

    def _run(self, command: str, path: Path, most: int) -> None:
        if not self.allow_pipe:
            raise InputError(
                f"'pipe:{command}' would run a command; set remote.allow_pipe to true if that is"
                " wanted"
            )
        with path.open("wb") as file, tempfile.TemporaryFile() as words:
            process = subprocess.Popen(
                command, shell=True, stdout=subprocess.PIPE, stderr=words, start_new_session=True
            )
            with process:
                try:
                    assert process.stdout is not None  # for it is a pipe
                    _copy(process.stdout.read, file, most, f"the command 'pipe:{command}'")
                except BaseException:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise
            words.seek(0)
            said = words.read().decode("utf-8", "replace").strip().splitlines()
        if process.returncode != 0:
            raise InputError(
                f"the command 'pipe:{command}' ended with status {process.returncode}"
                f" ({said[-1] if said else 'silent'}); mend it"
            )

    def _download(self, url: str, path: Path, most: int) -> None:
        path.unlink(missing_ok=True)
        tags: list[str | None] = [None]
        for attempt in range(1, self.attempts + 1):
            try:
                if url.startswith(("http://", "https://")):
                    self._continue(url, path, tags, most)
                else:
                    fetch_rest(url, path, tags, most, self.storage_options, _copy)
                return
            except InputError:
                raise
            except urllib.error.HTTPError as error:
                if error.code not in _PASSING:
                    raise InputError(
                        f"{url} cannot be had: {error.code} {error.reason}; correct the address"
                    ) from error
                reason, pause = (
                    f"{error.code} {error.reason}",
                    _seconds(error.headers.get("Retry-After")),
                )
            except Exception as error:  # each driver has its own
                final = is_final(error)
                if final is not None:
                    raise InputError(f"{url} cannot be had: {final}") from error
                reason, pause = str(getattr(error, "reason", error)) or type(error).__name__, None
            if attempt < self.attempts:
                pause = min(30.0, 0.5 * 2**attempt) if pause is None else pause
                _log.warning(
                    "%s: %s; attempt %d of %d in %.1f s",
                    url,
                    reason,
                    attempt + 1,
                    self.attempts,
                    pause,
                )
                time.sleep(pause)
        raise InputError(
            f"{url} cannot be had after {self.attempts} attempts ({reason}); check the server and"
            " the network"
        )

    def _continue(self, url: str, path: Path, tags: list[str | None], most: int) -> None:
        """Fetch what is missing, from the start if the file has changed since; ``tags`` ends with
        the file's present one.
        """
        tag = tags[-1]
        have = path.stat().st_size if path.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=self.timeout
        ) as answer:
            tags.append(answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
            expected = answer.headers.get("Content-Length")
            with path.open("ab" if answer.status == 206 else "wb") as file:
                got = _copy(answer.read, file, most - file.tell(), url)
            if expected is not None and got < int(expected):
                raise ConnectionError(
                    f"the connection broke after {got:,} of {int(expected):,} bytes"
                )

    def _make_room(self, keep: Path) -> None:
        """Throw out the least recently used files until the cache fits; never the newest one."""
        files = []
        for path in keep.parent.glob("[!.]*-*"):  # not what others are writing
            try:
                files.append((path.stat().st_atime, path.stat().st_size, path))
            except FileNotFoundError:
                continue  # another process was faster
        excess = sum(size for _, size, _ in files) - self.cache_gib * 2**30
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                excess -= size


def _copy(read: Callable[[int], bytes], file: BinaryIO, most: int, source: str) -> int:
    total = 0
    while chunk := read(_CHUNK):
        total += len(chunk)
        if total > most:
            raise InputError(
                f"{source} sends more than the {most:,} bytes that are left of what its index or"
                " LIT_IBA_MAX_SHARD_BYTES allows; correct the address, or index the shards anew"
            )
        file.write(chunk)
    return total


# Cached shards whose content this process has compared: path, inode, size, time of change, SHA-256.
_compared: set[tuple[int, int, int, str]] = set()


def _is_the_one(file: io.BufferedReader, size: int | None, sha256: str | None) -> bool:
    """Whether an open file has the size and the content that the index says; the content is read
    once, and again whenever the file has changed.
    """
    found = os.fstat(file.fileno())
    if size is not None and found.st_size != size:
        return False
    if sha256 is None:
        return True
    version = (found.st_ino, found.st_size, found.st_mtime_ns, sha256)
    if version not in _compared:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
        file.seek(0)
        _compared.add(version)
    return True


def _seconds(value: str | None) -> float | None:
    return min(60.0, float(value)) if value and value.isdigit() else None


def file_name(url: str) -> str:
    """What to call a shard: the last part of a URL's path, or of a command's last word."""
    text = url.split()[-1] if url.startswith("pipe:") else urlsplit(url).path
    return text.rpartition("/")[2] or "index"

"""Files that appear whole or not at all, and their fingerprints."""

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from lit_iba.errors import InputError

LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file (its specification)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota, or a limit of sizes
_UMASK = os.umask(0)  # the only way to read it is to set it
os.umask(_UMASK)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write to the path that this yields; it takes the name ``path`` only when the block ends
    without an error.

    The content is flushed to disk before the rename, so that a power cut leaves the old file or the
    new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.chmod(
            0o666 & ~_UMASK
        )  # some writers make private files, which others on a cluster could not read
        part.replace(path)
    except Exception as error:
        number = _refused_by_the_disk(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _refused_by_the_disk(error: Exception) -> int | None:
    """The system's number of an error in writing that does not name the file; None for others."""
    # safetensors has its own words for what the system says, in some versions without the path.
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return int(number[1])
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    if error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC  # NumPy's words for a part that was not written
    return error.errno if error.errno in FULL else None


def read_text(path: str | Path, what: str = "file", limit: int = 1 << 30) -> str:
    """A text file of the user's.

    Args:
        path: Its path.
        what: What to call it in an error.
        limit: Bytes that it may have.

    Raises:
        InputError: It is missing, may not be read, is too large, or is not UTF-8.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(
                f"{what} {path} has {size:,} bytes, more than {limit:,}; give the right file"
            )
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{what} {path} does not exist; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be read ({error.strerror}); give a file that you may read"
        ) from error


def check_folder(path: str | Path, setting: str = "folder") -> None:
    """Refuse a folder that cannot be written to, before any work is done for it; makes nothing.

    Args:
        path: Which.
        setting: What it was given as.

    Raises:
        InputError: It has no name, a file stands in its place or above it, its name is too long,
            or it is read-only.
    """
    if not str(path):
        raise InputError(f"{setting} is empty; name a folder, or . for this one")
    path = Path(path).absolute()
    for place in (path, *path.parents):
        try:
            exists = place.exists()
            if exists and not place.is_dir():
                raise InputError(f"{place} is a file, not a folder; give another folder")
            if exists and not os.access(place, os.W_OK | os.X_OK):
                raise InputError(f"{place} cannot be written to; give another folder")
            if exists:
                return
        except OSError as error:
            shown = str(place) if len(str(place)) < 200 else f"{str(place)[:200]}..."
            raise InputError(
                f"{shown} cannot be a folder ({error.strerror}); give another one"
            ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file by atomic rename."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def sweep_parts(folder: str | Path, older_than: float = 0.0) -> list[Path]:
    """Delete the parts of files that killed writers have left in a folder; returns which.

    Args:
        folder: Which; those inside it are not looked into.
        older_than: Age in seconds below which a part may belong to a writer at work.
    """
    swept = []
    for part in Path(folder).glob(".*.part"):
        try:
            if time.time() - part.stat().st_mtime >= older_than:
                part.unlink()
                swept.append(part)
        except FileNotFoundError:
            continue
    return swept


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_content(path: str | Path) -> str:
    """Hexadecimal SHA-256 of what a file says: of its bytes, but for ``.safetensors`` of its
    entries in the order of their names.

    The library writes a file's metadata in another order each time, so that the same tensors with
    the same metadata are files of other bytes.
    """
    if Path(path).suffix != ".safetensors":
        return sha256_of(path)
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        except ValueError:  # no such file after all
            return sha256_of(path)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class FolderLock:
    """Held by the run that writes to a folder; the system frees it when the process ends, however
    it ends.

    Raises:
        InputError: Another run holds it.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / ".lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "an unknown process"
            self._file.close()
            raise InputError(
                f"{folder} is being written by another run ({holder}); wait for it, or give this"
                " run a folder of its own"
            ) from error
        try:
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()
        except OSError as error:  # a full disk; what is not written yet, closing would write
            with suppress(OSError):
                self._file.close()
            raise OSError(error.errno, error.strerror, str(path)) from error

    def release(self) -> None:
        """Let others write."""
        self._file.close()

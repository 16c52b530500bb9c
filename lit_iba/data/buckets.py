"""Files in buckets and on other machines, by whatever fsspec knows: ``s3://``, ``gs://``,
``az://``, ``hf://``, ``sftp://``, ``memory://`` and so on, each by a driver of its own.

``http(s)://`` is not among them: there one request with ``If-Range`` fetches a file or the rest of
it, where fsspec asks for its size first and then for one range after the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from lit_iba.errors import InputError

_BLOCK = 16 << 20  # bytes a request: a shard of 100 MB is a handful of them
_TAGS = ("ETag", "etag", "md5Hash", "checksum", "LastModified", "mtime", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}
# What drivers raise for want of credentials, by name: none of them need be installed.
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}


Copy = Callable[[Callable[[int], bytes], BinaryIO, int, str], int]


def _own_thread() -> None:
    """A forked process has no copy of the thread in which drivers work. Older fsspec waits for it
    without end, and newer keeps its lock as it was: it is told to start anew.
    """
    if "fsspec.asyn" in sys.modules:
        sys.modules["fsspec.asyn"].reset_lock()


os.register_at_fork(after_in_child=_own_thread)


def fetch_rest(
    url: str,
    path: Path,
    tags: list[str | None],
    most: int,
    options: Mapping[str, Any],
    copy: Copy,
) -> None:
    """Fetch a file, or what is missing of it in ``path``; from the start if it has changed since.

    Args:
        url: An address that fsspec knows.
        path: Where to, and what is there already.
        tags: What was fetched so far belongs to the file with the last of them; gets the present
            one.
        most: Bytes that may come.
        options: ``storage_options`` of the driver, such as credentials.
        copy: ``copy(read, file, most, url)`` writes what ``read`` gives.

    Raises:
        InputError: The address or its driver is unknown.
        Exception: Whatever the driver raises; see :func:`is_final`.
    """
    system, place = _opened(url, options)
    system.invalidate_cache()
    found = system.info(place)
    tag = next((str(found[name]) for name in _TAGS if found.get(name) is not None), None)
    have = path.stat().st_size if path.exists() and tag is not None and tag == tags[-1] else 0
    tags.append(tag)
    with (
        path.open("ab" if have else "wb") as file,
        system.open(place, "rb", block_size=_BLOCK) as source,
    ):
        if have:
            source.seek(have)
        copy(source.read, file, most - have, url)
    got, size = path.stat().st_size, found.get("size")
    if size is not None and got < size:
        raise ConnectionError(f"the connection broke after {got:,} of {size:,} bytes")


def listing(url: str, endings: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The addresses of the files in a folder, or that a pattern with ``*`` stands for, in order.

    Args:
        url: An address that fsspec knows.
        endings: What their names end in.
        options: ``storage_options`` of the driver.

    Raises:
        InputError: The address or its driver is unknown, or there is no such folder.
    """
    with _said(url):
        system, place = _opened(url, options)
        found = system.glob(place) if "*" in place else system.ls(place, detail=False)
        names = sorted(name for name in found if str(name).endswith(tuple(endings)))
        return [str(system.unstrip_protocol(name)) for name in names]


def write(url: str, data: bytes, options: Mapping[str, Any]) -> None:
    """Write a file.

    Raises:
        InputError: The address or its driver is unknown, or it may not be written.
    """
    with _said(url, "written"):
        system, place = _opened(url, options)
        system.pipe_file(place, data)


def get(url: str, path: Path, most: int, options: Mapping[str, Any]) -> None:
    """Fetch a file whose size is known, or bounded.

    Args:
        url: An address that fsspec knows.
        path: Where to.
        most: Bytes that it may have.
        options: ``storage_options`` of the driver.

    Raises:
        InputError: The address or its driver is unknown, the file is not there, or larger.
    """
    with _said(url), path.open("wb") as file:
        system, place = _opened(url, options)
        system.invalidate_cache()
        with system.open(place, "rb", block_size=_BLOCK) as source:
            while chunk := source.read(min(_BLOCK, most + 1 - file.tell())):
                file.write(chunk)
                if file.tell() > most:
                    raise InputError(f"{url} has more than {most:,} bytes; correct the address")


def put(path: Path, url: str, options: Mapping[str, Any]) -> None:
    """Write a file's content, of any size.

    Raises:
        InputError: As :func:`write`.
    """
    with _said(url, "written"):
        system, place = _opened(url, options)
        system.put_file(str(path), place)


def exists(url: str, options: Mapping[str, Any]) -> bool:
    """Whether there is a file.

    Raises:
        InputError: The address or its driver is unknown, or access is refused.
    """
    with _said(url):
        system, place = _opened(url, options)
        system.invalidate_cache()
        try:
            system.info(place)
        except FileNotFoundError:
            return False
        return True


@contextmanager
def _said(url: str, done: str = "had") -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each driver has its own
        said = is_final(error) or f"{error or type(error).__name__}; try again"
        raise InputError(f"{url} cannot be {done}: {said}") from error


def is_final(error: Exception) -> str | None:
    """Why another attempt would end as this one did, with the mend; None where it may not."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return "it is not there; correct the address"
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an HTTP client
    refused = isinstance(error, PermissionError) or bool(_names(error) & _NO_CREDENTIALS)
    if refused or status in (401, 403):
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (
            f"access is refused ({said}); give credentials where the driver looks for them, or in"
            " storage_options"
        )
    if isinstance(error, TypeError | ValueError):
        return f"the driver refuses it ({error}); correct the address or storage_options"
    return None


def _names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _opened(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    scheme = urlsplit(url).scheme
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        mend = f"pip install 'lit_iba[{extra}]'" if extra else f"install it ({error})"
        raise InputError(f"{url} needs a driver that is not installed; {mend}") from error
    except ValueError as error:
        raise InputError(
            f"{url}: nobody knows addresses that begin with {scheme}://; correct it, or install its"
            " fsspec driver"
        ) from error
    system, place = fsspec.core.url_to_fs(url, **options)
    return system, str(place)

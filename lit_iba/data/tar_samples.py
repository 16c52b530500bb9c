"""Samples out of one tar, in the file's order, with the unwanted ones skipped unread.

A sample is a run of members with the same key, and WebDataset's rule says which part of a name is
the key. Its reader is not used: a damaged header or a missing end, which it takes for the end of
the file, is remembered here (``damage``), and what nobody wants is not read.
"""

from __future__ import annotations

import gzip
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from webdataset.tariterators import base_plus_ext

from lit_iba.errors import InputError
from lit_iba.limits import largest_content

HEADER_BYTES = 512
ENDINGS = (".tar", ".tar.gz", ".tgz")
PACKED = ENDINGS[1:]
PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OCTAL = re.compile(rb"[0-7]+")
_ATTRIBUTES = 1 << 20  # more than any name and any list of attributes
_BUFFER = 1 << 18  # large enough that skipping small members stays inside it


@dataclass(frozen=True)
class RawSample:
    """The members of one sample as they stand in the file: extension -> bytes."""

    key: str
    members: dict[str, bytes]
    shard: str


@dataclass(frozen=True)
class DecodedSample(RawSample):
    """A sample whose picture somebody else has decoded: a Pillow image, or an array uint8 (C, H, W)
    or (H, W, C).
    """

    picture: Any


@dataclass(frozen=True)
class _Member:
    key: str
    extension: str
    size: int
    offset: int


class ShardFile(Protocol):
    """What can be opened for reading: a path, or a shard that must be fetched first."""

    @property
    def name(self) -> str:
        """File name."""
        ...

    def open_binary(self) -> BinaryIO:
        """Open it, seekable."""
        ...


def open_shard(shard: Path | ShardFile) -> BinaryIO:
    """Open a shard for reading.

    Raises:
        InputError: There is no such file, or it cannot be fetched.
    """
    if not isinstance(shard, Path):
        return shard.open_binary()
    try:
        return shard.open("rb", buffering=_BUFFER)
    except FileNotFoundError as error:
        raise InputError(
            f"shard {shard} does not exist; fetch it again or correct the path"
        ) from error
    except OSError as error:
        raise InputError(
            f"shard {shard} cannot be opened ({error.strerror}); it must be a file that you may"
            " read"
        ) from error


class TarSamples:
    """One pass over a tar.

    Attributes:
        size: Of the file, in bytes.
        slot: Number of the sample that :meth:`next` returns next, from 0.
        damage: What is wrong with the file, as far as it has been read; None if nothing is.
    """

    def __init__(self, shard: Path | ShardFile) -> None:
        self.name = shard.name
        self.slot = 0
        self.damage: str | None = None
        self._file = open_shard(shard)
        self._position = 0
        if self.name.endswith(PACKED) and self._file.read(2) == b"\x1f\x8b":
            self._file, self.damage = _unpacked(self._file, self.name)
        self.size = os.fstat(self._file.fileno()).st_size
        self._ahead = self._next_member()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def next(self, wanted: bool = True) -> RawSample | None:
        """The next sample, or None at the end; an unwanted one comes with empty members, unread.

        A sample that damage follows is none: its label, say, may lie in the damage.
        """
        first = self._ahead
        if first is None:
            return None
        members: dict[str, bytes] = {}
        while (
            self._ahead is not None
            and self._ahead.key == first.key
            and self._ahead.extension not in members
        ):
            members[self._ahead.extension] = self._content(self._ahead) if wanted else b""
            self._ahead = self._next_member()
        if self._ahead is None and self.damage is not None:
            return None
        self.slot += 1
        return RawSample(first.key, members, self.name)

    def read(self, slots: Sequence[int]) -> Iterator[RawSample | None]:
        """The samples in the given ascending slots; None for those that the file does not hold (any
        more).
        """
        for slot in slots:
            while self.slot < slot and self.next(wanted=False) is not None:
                pass
            yield self.next() if self.slot == slot else None

    def _content(self, member: _Member) -> bytes:
        self._file.seek(member.offset)
        return self._file.read(member.size)

    def _next_member(self) -> _Member | None:
        """The next regular file; None at the end, or where the damage begins."""
        long_name = ""
        long_size: bytes | None = None
        while (header := self._header()) is not None:
            kind = header[156:157]
            size = _number(header[124:136]) if long_size is None else _decimal(long_size)
            offset = self._position + HEADER_BYTES
            if size is None:
                self.damage = f"the size at byte {self._position} is no number of bytes"
                return None
            if offset + size > self.size:
                self.damage = f"it ends at byte {self.size}, in the middle of a member"
                return None
            self._position = offset + -(-size // HEADER_BYTES) * HEADER_BYTES
            if kind in (b"L", b"x") and size > _ATTRIBUTES:
                self.damage = f"the name at byte {offset} has {size:,} bytes"
                return None
            if kind == b"L":  # GNU: the next member's name
                long_name = self._file.read(size).rstrip(b"\0").decode("utf-8", "replace")
                continue
            if kind == b"x":  # POSIX: attributes of the next member
                attributes = _attributes(self._file.read(size))
                long_name = attributes.get(b"path", long_name.encode()).decode("utf-8", "replace")
                long_size = attributes.get(b"size")
                continue
            name = (long_name or _name(header)).removeprefix("./")
            if "\0" in name or ".." in name.split("/")[:-1] or name.startswith("/"):
                self.damage = f"the name at byte {offset - HEADER_BYTES} leads out of its folder"
                return None
            key, extension = base_plus_ext(name)
            # No folders, links, hidden files, or names without a dot.
            if kind in (b"0", b"\0") and key and not key.endswith("/"):
                return _Member(key, extension.lower(), size, offset)
            long_name, long_size = "", None
        return None

    def _header(self) -> bytes | None:
        """The header at the present position; None where the tar ends or is damaged."""
        self._file.seek(self._position)
        header = self._file.read(HEADER_BYTES)
        if self._position == 0 and (packer := _packer(header)) is not None:
            self.damage = f"it is packed by {packer}, and a shard is a plain tar: {packer} -d"
        elif len(header) < HEADER_BYTES:
            self.damage = f"it ends at byte {self.size} without the mark that ends a tar"
        elif header.strip(b"\0"):
            if _is_header(header):
                return header
            self.damage = f"the tar header at byte {self._position} is corrupt"
        return None


def _packer(beginning: bytes) -> str | None:
    """What a file was packed by, from its first bytes."""
    return next((name for magic, name in PACKERS.items() if beginning.startswith(magic)), None)


def _unpacked(packed: BinaryIO, name: str) -> tuple[BinaryIO, str | None]:
    """All of a gzip's content, in a file without a name, and what is wrong with it. A gzip can only
    be read from its beginning.

    Raises:
        InputError: It holds far more than its size.
    """
    most = largest_content(os.fstat(packed.fileno()).st_size)
    packed.seek(0)
    file = tempfile.TemporaryFile()  # noqa: SIM115  its reader closes it
    damage = None
    try:
        with packed, gzip.GzipFile(fileobj=packed) as source:
            while chunk := source.read(_BUFFER):
                if file.write(chunk) and file.tell() > most:
                    raise InputError(
                        f"shard {name} holds more than {most:,} bytes once it is unpacked; if that"
                        " is right, set LIT_IBA_MAX_EXPANSION (how many times larger) in the"
                        " environment"
                    )
    except (OSError, EOFError, zlib.error) as error:
        damage = f"its gzip is broken ({error})"
    except InputError:
        file.close()
        raise
    file.seek(0)
    return file, damage


def _is_header(header: bytes) -> bool:
    stored = header[148:156].strip(b" \0")
    return (
        _OCTAL.fullmatch(stored) is not None
        # Adler-32's lower half is the sum of all bytes plus one, modulo 65521, at C's speed.
        and (int(stored, 8) + sum(header[148:156]) - 8 * 32 + 1) % 65521
        == zlib.adler32(header) & 0xFFFF
    )


def _number(field: bytes) -> int | None:
    """A size as a header has it; None if it is no number."""
    if field[0] & 0x80:  # base 256, for sizes beyond 8 GiB
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if _OCTAL.fullmatch(digits) else None


def _decimal(field: bytes) -> int | None:
    """A size as a POSIX extended header has it; None if it is no number that a file can have."""
    return int(field) if field.isdigit() and len(field) < 20 else None


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return f"{prefix.decode('utf-8', 'replace')}/{name}" if prefix else name


def _attributes(data: bytes) -> dict[bytes, bytes]:
    """The ``path`` and ``size`` among the records "length key=value" of a POSIX extended header."""
    return dict(re.findall(rb"\d+ (path|size)=([^\n]*)\n", data))

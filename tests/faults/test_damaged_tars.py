"""Every way in which bytes of a tar can be wrong ends as damage that is said, never as another
exception, and never without an end.
"""

import io
import os
import tarfile
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_iba.data.shard import count_shard
from lit_iba.data.tar_samples import TarSamples
from lit_iba.errors import InputError


def tar_of(members: dict[str, bytes], pax: dict[str, str] | None = None) -> bytes:
    """A tar; ``pax`` are attributes of its first member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, data) in enumerate(members.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = dict(pax or {}) if number == 0 else {}
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


WHOLE = tar_of({"a.jpg": b"1" * 700, "a.cls": b"1", "b.jpg": b"2", "b.cls": b"2"})


def found_in(path: Path, data: bytes) -> tuple[int, str | None]:
    """How many samples the reader finds in the bytes, and what it says is wrong with them."""
    path.write_bytes(data)
    with closing(TarSamples(path)) as samples:
        for count in range(len(data)):
            if samples.next() is None:
                return count, samples.damage
    raise AssertionError("the reader finds more samples than there are bytes")


def test_every_flipped_bit_of_a_header_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    assert found_in(path, WHOLE) == (2, None)
    second = 512 + 1024  # the header of a.cls, behind that of a.jpg and its two blocks
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * 512):
            place = second + bit // 8
            os.pwrite(file.fileno(), bytes([WHOLE[place] ^ 1 << bit % 8]), place)
            with closing(TarSamples(path)) as samples:
                count = sum(1 for _ in iter(samples.next, None))
            # Padding of the stored sum is the one place where another bit may mean the same.
            assert samples.damage or (count == 2 and 148 <= bit // 8 < 156), bit
            os.pwrite(file.fileno(), WHOLE[place : place + 1], place)
        os.pwrite(file.fileno(), b"?", second)
    with pytest.raises(InputError, match=r"shard .*x\.tar is damaged: .*; fetch or write it again"):
        count_shard(path)


@pytest.mark.parametrize("size", ["-1536", "many", "1e3", "9" * 5000, "", "5_0"])
def test_a_size_that_is_no_number_is_damage(tmp_path: Path, size: str) -> None:
    count, damage = found_in(
        tmp_path / "x.tar", tar_of({"a.jpg": b"1", "b.jpg": b"2"}, {"size": size})
    )
    assert count == 0
    assert damage is not None


@settings(max_examples=150, deadline=1000)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(max_size=12)), max_size=4))
def test_any_bytes_are_read_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(WHOLE)
    for place, new in changes:
        data[place : place + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "any.tar"
    found_in(path, bytes(data))
    with suppress(InputError):
        assert count_shard(path) >= 1

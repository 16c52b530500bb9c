"""Files whose bytes or entries are anything end as a sentence or as a counted hole: never as
another exception, and never at the cost of more than a second or half a gigabyte.
"""

import copy
import io
import json
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_bombs import JSON
from test_damaged_tars import tar_of

from lit_iba.classifier import Preprocessing, read_weights
from lit_iba.data import Shard, shard_batches
from lit_iba.data.decode import decode_array, decode_mask, decode_photograph
from lit_iba.errors import InputError
from lit_iba.iba import ReadoutIBA
from lit_iba.training.checkpoint import check_resumable

MOST_BYTES = 500 << 20
fuzz = settings(
    max_examples=60,
    deadline=1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # whose file is written anew
)


@contextmanager
def bounded() -> Iterator[None]:
    """Whoever asks for more memory than that does not get it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((24, 20), 60).convert("RGB").save(file, kind)
    return file.getvalue()


PNG, JPEG = picture("PNG"), picture("JPEG")
WHOLE = tar_of(
    {
        "a.png": PNG,
        "a.cls": b"1",
        "a.json": b'{"bbox": [[1, 1, 9, 9]]}',
        "b.jpg": JPEG,
        "b.cls": b"2",
    }
)
CHANGES = st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(max_size=12)), max_size=5)


BOTH = ("weight", "corrupt")


@fuzz
@given(CHANGES, st.integers(0, len(WHOLE)) | st.none())
def test_every_sample_of_a_damaged_shard_is_seen_or_counted_as_lost(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    data = bytearray(WHOLE)
    for place, new in changes:
        data[place : place + len(new)] = new
    del data[len(data) if cut is None else cut :]
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    shard = Shard(path, 2, len(data))
    with bounded(), suppress(InputError):  # as where a label is no number
        batches = list(shard_batches(shard, Preprocessing(resize=16, crop=16)))
        weights, corrupt = (torch.cat([batch[name] for batch in batches]) for name in BOTH)
        assert (weights + corrupt).tolist() == [1, 1]


def png_of(header: bytes) -> bytes:
    """A PNG with another header, whose sum is right."""
    chunk = b"IHDR" + header
    return PNG[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]


SIDE = st.sampled_from([0, 1, 20, 24, 7000, 65535, 2**31 - 1, 2**32 - 1])
IHDR = st.builds(
    lambda sides, rest: struct.pack(">II", *sides) + rest,
    st.tuples(SIDE, SIDE),
    st.binary(min_size=5, max_size=5)
    | st.sampled_from([b"\x08\2\0\0\0", b"\x10\0\0\0\0", b"\x08\6\0\0\1"]),
)
FRAME = JPEG.index(b"\xff\xc0") + 4  # where a JPEG says precision, height, width and components


def jpeg_of(frame: bytes) -> bytes:
    """A JPEG that says something else there."""
    return JPEG[:FRAME] + frame + JPEG[FRAME + len(frame) :]


NUMPY = b"\x93NUMPY\x01\x00"


def array_of(header: str, data: bytes) -> bytes:
    """A .npy with any header."""
    text = header.encode("latin1", "replace")
    return NUMPY + struct.pack("<H", len(text)) + text + data


ARRAYS = st.builds(
    array_of,
    st.builds(
        lambda kind, order, shape: str({"descr": kind, "fortran_order": order, "shape": shape}),
        st.sampled_from(["|u1", "<f4", "|O", "<U3", "?", [("a", "<i4")], 3, "|V9"]),
        st.sampled_from([False, True, 3]),
        st.lists(st.sampled_from([0, 1, 2, -1, 10**9, 2**62, "a"]), max_size=3).map(tuple) | JSON,
    )
    | st.text(max_size=20),
    st.binary(max_size=8),
)


@pytest.mark.slow
@fuzz
@given(IHDR.map(png_of) | st.binary(max_size=8).map(jpeg_of) | ARRAYS)
def test_a_picture_of_any_header_is_decoded_or_refused(data: bytes) -> None:
    with bounded():
        for decode in (
            lambda: decode_photograph(data, "x").planes[0].mode == "RGB",
            lambda: decode_mask(data, (24, 20), "x").shape == (20, 24),
            lambda: decode_array(data, "x").ndim >= 0,
        ):
            with suppress(InputError):
                assert decode()


def paths_of(entries: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where a checkpoint has entries: at its top, and one and two further down."""
    found = []
    for name, value in entries.items():
        found.append((name,))
        if isinstance(value, dict):
            found += [(name, *rest) for rest in paths_of(value)]
    return found


@pytest.fixture(scope="module")
def checkpoint(shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(shared / "runs" / "readout" / "last.ckpt", weights_only=True)
    return found


@pytest.mark.slow
@fuzz
@given(st.integers(0, 10**4), st.booleans(), JSON | st.integers(0, 3).map(lambda n: torch.zeros(n)))
def test_a_checkpoint_of_any_entries_is_read_or_refused(
    tmp_path: Path, checkpoint: dict[str, Any], number: int, leave_out: bool, value: object
) -> None:
    changed = copy.deepcopy(checkpoint)
    places = [path for path in paths_of(changed) if path[0] != "optimizer_states"]
    *above, name = places[number % len(places)]
    entry: dict[str, Any] = changed
    for step in above:
        entry = entry[step]
    if leave_out:
        del entry[name]
    else:
        entry[name] = value
    path = tmp_path / "x.ckpt"
    torch.save(changed, path)
    with bounded():
        with suppress(InputError):
            assert ReadoutIBA.load(path).taps
        with suppress(InputError):
            check_resumable(path, "ReadoutTraining")


@fuzz
@given(
    st.dictionaries(
        st.text(max_size=3) | st.just("__metadata__"),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "I64", "F8"]),
                "shape": st.lists(st.integers(-1, 2**40), max_size=3),
                "data_offsets": st.lists(st.integers(0, 2**40), max_size=2),
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
    st.integers(0, 2**63) | st.none(),
)
def test_weights_of_any_header_are_read_or_refused(
    tmp_path: Path, header: dict[str, Any], data: bytes, size: int | None
) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    with bounded(), suppress(InputError):
        state, told = read_weights(path)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        assert isinstance(told, dict)

"""Small files that stand for gigabytes are refused before the work is begun, and a limit that is
raised by its name lets them pass.
"""

import io
import json
import lzma
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_iba.classifier import Preprocessing, build_network, read_weights
from lit_iba.cli.sentences import check_configs
from lit_iba.data import ShardIndex
from lit_iba.data.decode import decode_boxes, decode_label, decode_photograph
from lit_iba.data.import_arrays import shards_from_arrays
from lit_iba.data.remote import Remote
from lit_iba.data.shards import parse_index
from lit_iba.errors import InputError
from lit_iba.limits import limit
from lit_iba.training import read_checkpoint

PICTURE = io.BytesIO()
Image.effect_noise((40, 30), 60).convert("RGB").save(PICTURE, "PNG")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Never more than five seconds or 500 MB, most of which are the machine's moods."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10


def png(width: int, height: int) -> bytes:
    """A PNG that says it is of this size, and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))


def huge_header(path: Path) -> None:
    array = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**5, 10**3, 10**3, 3)}
    np.lib.format.write_array_header_1_0(array, shape)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", array.getvalue() + b"0" * 100)


def aliases(path: Path) -> None:
    lines = ["a0: &a0 [1, 1]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)
    ]
    path.write_text("\n".join(lines))


BOMBS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "x.png": (
        lambda path: path.write_bytes(png(13_300, 13_300)),
        lambda path: decode_photograph(path.read_bytes(), str(path)),
        "set LIT_IBA_MAX_PICTURE_PIXELS",
    ),
    "x.safetensors.xz": (
        lambda path: path.write_bytes(lzma.compress(bytes(100 << 20), preset=0)),
        read_weights,
        "set LIT_IBA_MAX_EXPANSION",
    ),
    "x.ckpt": (zipped, read_checkpoint, "set LIT_IBA_MAX_EXPANSION"),
    "x.pt": (zipped, read_weights, "set LIT_IBA_MAX_EXPANSION"),
    "x.npz": (
        huge_header,
        lambda path: shards_from_arrays(path, path.parent / "out"),
        "and is smaller",
    ),
    "x-{000000..99999999}.tar": (
        lambda path: None,
        lambda path: ShardIndex.load(str(path)),
        "set LIT_IBA_MAX_SHARDS",
    ),
    "x.yaml": (aliases, lambda path: check_configs(["--config", str(path)]), "write values out"),
    "index.json": (
        lambda path: path.write_text('{"schema": 1, "shards": ' + "[" * 100_000),
        ShardIndex.load,
        "is not an index",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, name: str) -> None:
    make, read, message = BOMBS[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as refused:
        read(tmp_path / name)
    assert str(tmp_path) in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_limit_is_raised_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_IBA_MAX_PICTURE_PIXELS", "1199")
    with pytest.raises(InputError, match="is 1,200, more than 1,199"):
        decode_photograph(PICTURE.getvalue(), "x")
    monkeypatch.setenv("LIT_IBA_MAX_PICTURE_PIXELS", "1200")
    assert decode_photograph(PICTURE.getvalue(), "x").size == (40, 30)
    monkeypatch.setenv("LIT_IBA_MAX_SIDE", "many")
    with pytest.raises(InputError, match="LIT_IBA_MAX_SIDE is 'many'"):
        limit("SIDE")


def test_a_command_that_never_ends_its_output_is_stopped() -> None:
    with pytest.raises(InputError, match="sends more than the 100,000 bytes"):
        Remote(allow_pipe=True).open("pipe:yes", size=100_000)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": 0},
        {"crop": 10**9},
        {"resize": -1},
        {"std": [0, 1, 1]},
        {"mean": [0, 0]},
        {"mean": [float("nan")] * 3},
        {"interpolation": "best"},
        {"side": 3},
    ],
)
def test_preprocessing_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Preprocessing.from_dict(settings)


@pytest.mark.parametrize("classes", [0, -3, 10**12])
def test_class_counts_out_of_range_are_refused(classes: int) -> None:
    with pytest.raises(InputError, match="num_classes is"):
        build_network("small_cnn", "random", classes)


@settings(max_examples=80, deadline=1000)
@given(st.integers(0, 100), st.binary(max_size=8))
def test_a_picture_of_any_bytes_is_decoded_or_refused(place: int, new: bytes) -> None:
    data = bytearray(PICTURE.getvalue())
    data[place : place + len(new)] = new
    try:
        photograph = decode_photograph(bytes(data), "x.png")
    except InputError:
        return
    assert photograph.planes[0].mode == "RGB"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["a.tar", "/etc/passwd", "../../a.tar", "..", "", "a\n.tar", 3, None])
ENTRY = st.fixed_dictionaries({"name": NAMES, "count": JSON, "bytes": JSON}) | JSON


@settings(max_examples=150, deadline=1000)
@given(st.lists(ENTRY, max_size=2) | JSON, JSON | st.just(["a"]), st.just(1) | JSON)
def test_an_index_of_any_entries_is_read_or_refused(
    shards: object, names: object, schema: object
) -> None:
    data = json.dumps({"schema": schema, "shards": shards, "class_names": names}).encode()
    try:
        index = parse_index(data, "index.json", lambda name, _: {"path": Path("data") / name})
    except InputError:
        return
    assert all(shard.path == Path("data/a.tar") and shard.count > 0 for shard in index.shards)


@settings(max_examples=100, deadline=1000)
@given(st.binary(max_size=30) | JSON.map(lambda v: json.dumps({"bbox": v}).encode()))
def test_labels_and_boxes_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (decode_boxes, decode_label):
        with suppress(InputError):
            decode(data, "x")

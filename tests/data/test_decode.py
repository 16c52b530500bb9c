"""Bytes of every usual kind become the same 8-bit RGB photograph; damaged bytes become an error
with a name.
"""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_iba.classifier.photograph import Photograph
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data.batch import BatchMaker
from lit_iba.data.decode import (
    decode_boxes,
    decode_label,
    decode_mask,
    decode_photograph,
    read_picture,
)
from lit_iba.data.tar_samples import RawSample
from lit_iba.errors import InputError

RAMP = np.add.outer(np.arange(24) * 3, np.arange(32) * 4).astype(np.uint8)
COLORS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    photograph = decode_photograph(data, "sample")
    pixels = photograph.pixels()
    assert pixels.shape[2] == 3
    return pixels.astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_has_three_equal_channels(kind: str) -> None:
    pixels = decoded(encoded(Image.fromarray(RAMP), kind))
    assert np.abs(pixels - RAMP[..., None]).max() <= (0 if kind == "PNG" else 4)


def test_cmyk_jpeg_has_the_colours_of_its_rgb_original() -> None:
    rgb = Image.fromarray(COLORS)
    data = encoded(rgb.convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data  # inverted values, as Photoshop writes them
    assert np.abs(decoded(data) - COLORS).max() <= 12


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    pixels = decoded(encoded(Image.fromarray(values), "PNG"))
    expected = np.round(values / 65535 * 255)  # scaled by hand
    assert (pixels[..., 0] == expected).all()


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    picture = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    pixels = decoded(encoded(picture, "PNG", transparency=257))
    assert pixels[..., 0].tolist() == [[0, 255, 255]]


def test_sixteen_bit_colours_are_scaled() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 0, 32896, 257, 514, 65535)  # two pixels

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert decoded(data).tolist() == [[[255, 0, 128], [1, 2, 255]]]


def test_palette_keeps_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert decoded(encoded(image, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "RGB":  # one colour declared transparent
        opaque = Image.new("RGB", (2, 1), (0, 0, 0))
        opaque.putpixel((1, 0), (9, 9, 9))
        data = encoded(opaque, "PNG", transparency=(9, 9, 9))
    elif mode == "P":
        indexed = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="L").convert("P")
        indexed.putpalette([0, 0, 0, 70, 70, 70])
        data = encoded(indexed, "PNG", transparency=b"\xff\x00")
    else:
        data = encoded(image.convert(mode), "PNG")
    assert decoded(data).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decoded(encoded(Image.fromarray(COLORS), "JPEG", exif=exif)).shape == COLORS.shape


def test_a_single_pixel_is_a_photograph() -> None:
    assert decoded(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_any_truncation_is_an_error_that_names_the_sample(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for length in range(0, len(data) - 16, 97):
        with pytest.raises(InputError, match="cat_7 cannot be decoded"):
            decode_photograph(data[:length], "cat_7")


@pytest.mark.parametrize("data", [b"", b"no picture", b"GIF89a" + bytes(99), b"\x80\x04\x95pickle"])
def test_other_bytes_are_no_photograph(data: bytes) -> None:
    with pytest.raises(InputError, match="cat_7"):
        decode_photograph(data, "cat_7")


def jpegs() -> dict[str, bytes]:
    rgb, grey = Image.fromarray(COLORS), Image.fromarray(RAMP)
    return {
        "usual": encoded(rgb, "JPEG"),
        "progressive": encoded(rgb, "JPEG", progressive=True, quality=90),
        "unsampled": encoded(rgb, "JPEG", subsampling=0),
        "restarting": encoded(rgb, "JPEG", restart_marker_blocks=2),
        "rgb": encoded(rgb, "JPEG", keep_rgb=True),
        "grey": encoded(grey, "JPEG"),
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "png": encoded(rgb, "PNG"),
    }


def outcome(data: bytes, unscaled: bool) -> tuple[str, np.ndarray | None]:
    try:
        stored = read_picture(data, "jpg", "sample", lambda size: unscaled)
    except InputError as error:
        return str(error), None
    photograph = Photograph.of(stored, 3)
    width, height = photograph.size  # damage may make it small; a crop lies within
    box = min(3, width - 1), min(2, height - 1), min(30, width), min(21, height)
    return "", photograph.pixels(box)


@pytest.mark.parametrize("kind", list(jpegs()))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_faster_decoder_gives_the_same_pixels_and_errors(
    kind: str, data: st.DataObject
) -> None:
    whole = jpegs()[kind]
    stored = read_picture(whole, "jpg", "sample", lambda size: size == (32, 24))
    assert isinstance(stored, Photograph) == (kind not in ("grey", "cmyk", "png"))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(whole)) | st.integers(2, len(whole)))
    said, pixels = outcome(bytes(damaged[:end]), unscaled=True)
    expected, by_pillow = outcome(bytes(damaged[:end]), unscaled=False)
    assert (said, pixels is None) == (expected, by_pillow is None)
    assert pixels is None or np.array_equal(pixels, by_pillow)


def test_a_mask_must_fit_its_photograph() -> None:
    mask = encoded(Image.fromarray((RAMP > 50).astype(np.uint8)), "PNG")
    assert (decode_mask(mask, (32, 24), "m") == (RAMP > 50)).all()
    with pytest.raises(InputError, match="32 x 24 pixels, but its photograph has 24 x 32"):
        decode_mask(mask, (24, 32), "m")
    with pytest.raises(InputError, match="mode RGB"):
        decode_mask(encoded(Image.fromarray(COLORS), "PNG"), (32, 24), "m")


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"bbox": [1, 2, 3, 4]}', b'{"bbox": [["a", 1, 2, 3]]}', b'{"bbox": 3}']
)
def test_json_that_is_not_as_expected_is_an_error(data: bytes) -> None:
    with pytest.raises(InputError, match="dog"):
        decode_boxes(data, "dog")


def test_boxes_that_are_of_another_size_than_the_picture_are_an_error() -> None:
    said = b'{"bbox": [[1, 2, 3, 4]], "width": 32, "height": 24}'
    alone = b'{"bbox": [[1, 2, 3, 4]]}'
    for data in (said, alone):
        assert decode_boxes(data, "dog", (32, 24)) == [[1, 2, 3, 4]]
    assert decode_boxes(b'{"bbox": [], "width": 9, "height": 9}', "dog", (32, 24)) == []
    with pytest.raises(InputError, match=r"boxes of dog are of 32 x 24 .* has 24 x 32; scale"):
        decode_boxes(said, "dog", (24, 32))
    sample = RawSample(
        "dog", {"png": encoded(Image.fromarray(COLORS), "PNG"), "json": said}, "a.tar"
    )
    turned = replace(sample, members=sample.members | {"json": said.replace(b"32", b"64")})
    batch, holes = BatchMaker(Preprocessing(resize=None, crop=16))([sample, turned])
    assert batch["weight"].tolist() == [1, 0]
    assert ["64 x 24" in hole.reason for hole in holes] == [True]


def test_labels_are_whole_numbers_in_range() -> None:
    assert decode_label(b" 7\n", "dog", 8) == 7
    for data in (b"8", b"-1", b"1.5", b"", b"\x80", b"0_7", b"+7", b"7" * 5000):
        with pytest.raises(InputError, match="dog"):
            decode_label(data, "dog", 8)

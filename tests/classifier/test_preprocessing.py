"""Rectangles and channels: from stored pictures to the classifier's."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from lit_iba import InputError, Preprocessing
from lit_iba.classifier.photograph import Photograph


def photograph(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (30, 200)])
@pytest.mark.parametrize("resize", [48, (50, 70), None])
def test_a_rectangle_is_torchvisions(size: tuple[int, int], resize: Any) -> None:
    stored = photograph(*size)
    own = Preprocessing(resize=resize, crop=[24, 40])  # type: ignore[arg-type] # as YAML has it
    ours = own.picture(stored).permute(1, 2, 0).numpy().astype(int)
    # A picture that is smaller than the crop is enlarged to it.
    wanted = resize or max(min(size), round(min(size) * max(24 / size[1], 40 / size[0])))
    theirs = np.asarray(CenterCrop((24, 40))(Resize(wanted)(stored))).astype(int)
    assert ours.shape == (24, 40, 3)
    assert np.abs(ours - theirs).max() <= 2  # rounding, where it is resized


@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.none() | st.integers(1, 90) | st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_a_crop_never_needs_padding(size: Any, crop: Any, resize: Any) -> None:
    own = Preprocessing(resize=resize, crop=crop)
    scaled = own.scaled_size(*size)
    assert scaled[0] >= crop[1]
    assert scaled[1] >= crop[0]
    left, top, right, bottom = own.crop_box(*size)
    assert left >= 0
    assert top >= 0
    assert right <= size[0] + 1e-6
    assert bottom <= size[1] + 1e-6
    if not isinstance(resize, tuple):  # nothing is stretched, but for rounding
        across, down = (right - left) / crop[1], (bottom - top) / crop[0]
        assert abs(across - down) <= 1.01 * max(across / scaled[1], down / scaled[0])


def test_a_rectangle_survives_files_and_a_square_is_a_number() -> None:
    wide = Preprocessing(resize=(30, 50), crop=(24, 40))
    assert wide.to_dict()["crop"] == [24, 40]
    assert Preprocessing.from_dict(wide.to_dict()) == wide
    assert Preprocessing(crop=(32, 32)) == Preprocessing(crop=32)
    assert Preprocessing(crop=(32, 32)).to_dict()["crop"] == 32
    for wrong in ([24], [24, 0], [24, 1.5], "24x40", [24, 40, 3]):
        with pytest.raises(InputError, match="crop is"):
            Preprocessing.from_dict({"crop": wrong})


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_channels_are_resized_one_by_one(channels: int) -> None:
    # Of RGBA, Pillow resizes colours by what alpha shows of them: here nothing.
    bands = np.random.default_rng(0).integers(0, 256, (channels, 20, 30), dtype=np.uint8)
    bands[-1] = 0
    stored: Any = bands
    if channels != 12:
        stored = Image.fromarray(bands.transpose(1, 2, 0), "LA" if channels == 2 else "RGBA")
    many = (0.5,) * channels
    own = Preprocessing(resize=None, crop=(24, 40), mean=many, std=many)
    found = own.picture(Photograph.of(stored, channels))
    single = Preprocessing(resize=None, crop=(24, 40), mean=(0.5,), std=(0.5,))
    for band, alone in zip(bands, found, strict=True):
        assert torch.equal(single.picture(Image.fromarray(band))[0], alone)
    assert found[0].float().std() > 20


def test_arrays_have_their_channels_first_or_last() -> None:
    bands = np.arange(12 * 6 * 7, dtype=np.uint8).reshape(12, 6, 7)
    for stored in (bands, bands.transpose(1, 2, 0), np.asfortranarray(bands)):
        assert (Photograph.of(stored, 12).pixels().transpose(2, 0, 1) == bands).all()
    assert Photograph.of(bands[0], 1).size == (7, 6)
    with pytest.raises(InputError, match="put them at the other end"):
        Photograph.of(bands[:, :, :1].repeat(12, 2), 12)


@pytest.mark.parametrize(
    ("stored", "channels", "sentence"),
    [
        (Image.new("RGB", (4, 4)), 12, r"x has 3 channels \(RGB\), .* 12; .*\(12, H, W\)$"),
        (Image.new("RGB", (4, 4)), 4, r"takes 4; .* or a .png with alpha"),
        (Image.new("L", (4, 4)), 2, r"x has 1 channels \(L\)"),
        (np.zeros((4, 5, 3), np.uint8), 12, r"x is an array \(4, 5, 3\) of uint8, .* takes 12"),
        (np.zeros((12, 5, 3), np.float32), 12, "of float32, .* scaled to 0..255"),
        (np.zeros((12, 0, 3), np.uint8), 12, "takes 12"),
        (np.zeros((4, 5), np.uint8), 3, "takes 3"),
    ],
)
def test_other_channels_are_refused(stored: Any, channels: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Photograph.of(stored, channels, "x")

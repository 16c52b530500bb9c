"""A heatmap keeps its total when it is resized, and can be looked at."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lit_iba import Heatmap, InputError, Preprocessing
from lit_iba.explainer import completeness_error
from lit_iba.heatmap import resize_keeping_total


@settings(max_examples=40, deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    scale=st.integers(1, 6),
    signed=st.booleans(),
    edge=st.sampled_from(["clamp", "mirror"]),
    seed=st.integers(0, 99),
)
def test_resizing_keeps_the_total(
    h: int, w: int, scale: int, signed: bool, edge: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, h, w, generator=generator) + 0.01
    if signed:
        maps[:, ::2] *= -0.5
    resized = resize_keeping_total(maps, (h * scale, w * scale), edge, signed)
    assert resized.shape == (2, h * scale, w * scale)
    assert torch.allclose(resized.sum(dim=(1, 2)), maps.sum(dim=(1, 2)), rtol=1e-3, atol=1e-4)


def test_what_belongs_to_an_image_stays_with_it() -> None:
    heatmap = Heatmap(
        torch.rand(3, 4, 4), undrawn=torch.arange(3.0), completeness=torch.arange(3.0) / 10
    )
    one = heatmap[-1].to("cpu")
    assert torch.equal(one.values, heatmap.values[2:])
    assert one.undrawn == torch.tensor([2.0])
    assert one.completeness == torch.tensor([0.2])
    assert heatmap[:2].completeness.shape == (2,)


def test_a_broken_promise_is_measured_by_what_was_promised() -> None:
    error = completeness_error(
        torch.tensor([1.0, -3.0, 0.0, 0.1]), torch.tensor([2.0, -2.0, 0.0, 0.0])
    )
    assert torch.equal(error, torch.tensor([0.5, 0.5, 0.0, torch.inf]))


def test_the_mirrored_resize_is_that_of_scikit_image() -> None:
    # reflect-pad, interpolate, crop: stated independently through numpy's reflection and a larger
    # interpolation.
    maps = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    padded = torch.from_numpy(np.pad(maps.numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect"))
    large = F.interpolate(padded[:, None], scale_factor=8, mode="bilinear", align_corners=False)[
        0, 0, 16:-16, 16:-16
    ]
    ours = resize_keeping_total(maps, (56, 56), "mirror")[0]
    assert torch.allclose(ours / ours.sum(), large / large.sum(), atol=1e-7)


def test_a_signed_map_that_sums_to_zero_stays_finite() -> None:
    maps = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.isfinite(resize_keeping_total(maps, (8, 8), signed=True)).all()


@pytest.mark.parametrize("size", [(37, 41), (100, 75)])
def test_a_signed_map_keeps_its_signs_and_its_total_however_near_zero_that_is(
    size: tuple[int, int],
) -> None:
    values = torch.randn(300, 32, 32, generator=torch.Generator().manual_seed(0))
    resized = Heatmap(values, signed=True).resize(size).values
    plain = F.interpolate(values[:, None], size=size, mode="bilinear")[:, 0] * (
        values[0].numel() / (size[0] * size[1])
    )
    away = (resized - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    assert float(away.max()) < 0.1
    wanted, largest = values.sum(dim=(1, 2)), float(values.abs().sum(dim=(1, 2)).max())
    torch.testing.assert_close(resized.sum(dim=(1, 2)), wanted, rtol=0, atol=1e-5 * largest)


def test_overlays_and_files(tmp_path: Path) -> None:
    preprocessing = Preprocessing(resize=None, crop=8)
    pictures = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    values = torch.rand(3, 8, 8)
    heatmap = Heatmap(values, unit="bits", method="x", normalization=preprocessing)
    assert torch.equal(
        heatmap.overlay(pictures), heatmap.overlay(preprocessing.normalize(pictures))
    )
    assert heatmap.overlay(pictures).dtype == torch.uint8
    heatmap.save_png(tmp_path / "h.png", index=1)
    written = np.asarray(Image.open(tmp_path / "h.png"))
    assert np.array_equal(written[:, :8], heatmap.colored()[1].permute(1, 2, 0).numpy())
    assert written.shape[1] > 8  # the scale of the colours
    assert "bits" in heatmap._repr_html_()
    assert torch.equal(heatmap[-1].values[0], values[-1])
    assert torch.allclose(heatmap.total, values.sum(dim=(1, 2)))
    with pytest.raises(InputError, match="do not fit heatmaps"):
        heatmap.overlay(pictures[:2])


def test_the_colour_bar_has_the_colours_of_the_values_that_stand_at_its_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda pen, place, what, *rest, **more: (
            written.append(what),
            text(pen, place, what, *rest, **more),
        ),
    )
    values = torch.linspace(0.25, 3.0, 64 * 64).view(1, 64, 64)
    heatmap = Heatmap(values, unit="bits")
    pictures = heatmap.overlay(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8))
    found = heatmap.with_color_bar(pictures)
    assert found[..., :64].equal(pictures)
    assert written == ["3", "0.25", "bits per pixel"]
    ramp = found[0, :, :, 64 + 8]  # its column of colours, the largest value on top
    assert (ramp.int() - heatmap.colored()[0, :, :, 32].flip(1).int()).abs().max() <= 8
    # Zero is in the middle of a signed map's bar, and a map without a unit has none.
    written.clear()
    signed = Heatmap(values - 2, unit="bits", signed=True)
    assert signed.with_color_bar(signed.colored())[0, :, 32, 64 + 8].min() > 240
    assert written[:2] == ["1.7", "-1.7"]
    assert Heatmap(values).with_color_bar(pictures) is pictures


def test_zero_is_white_in_a_signed_map() -> None:
    values = torch.zeros(1, 4, 4)
    values[0, 0, 0], values[0, 3, 3] = 2.0, -1.0
    colored = Heatmap(values, signed=True).colored()[0]
    assert colored[:, 1, 1].min() > 240
    assert colored[0, 0, 0] > colored[2, 0, 0]  # for: red
    assert colored[2, 3, 3] > colored[0, 3, 3]  # against: blue

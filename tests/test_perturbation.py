"""The Gaussian blur, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from lit_iba.perturbation import gaussian_blur

SCIPYS = {"constant": "constant", "reflect": "mirror", "replicate": "nearest"}


@pytest.mark.parametrize("border", SCIPYS)
@given(st.floats(0.3, 6), st.integers(30, 40), st.integers(30, 40))
@settings(deadline=None, max_examples=25)
def test_the_blur_is_scipys(border: str, sigma: float, height: int, width: int) -> None:
    pictures = np.random.default_rng(0).normal(size=(2, 3, height, width))
    found = gaussian_blur(torch.from_numpy(pictures), sigma, border)  # type: ignore[arg-type]
    wanted = gaussian_filter(
        pictures, sigma, mode=SCIPYS[border], radius=int(np.ceil(4 * sigma)), axes=(2, 3)
    )
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-6)


@given(st.floats(0, 50), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_a_blur_keeps_a_plain_colour_however_small_the_picture(
    sigma: float, height: int, width: int
) -> None:
    plain = torch.full((1, 2, height, width), 0.7)
    for border in ("reflect", "replicate"):
        torch.testing.assert_close(gaussian_blur(plain, sigma, border), plain)  # type: ignore[arg-type]


def test_a_blur_keeps_its_digits_under_autocast() -> None:
    images = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    expected = gaussian_blur(images, 2.0, "reflect")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_blur(images, 2.0, "reflect"), expected)

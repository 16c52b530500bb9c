"""Corruptions against their definitions, and that an image's own generator decides."""

import colorsys

import pytest
import torch
from torch import Tensor

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError
from lit_iba.varsal.corruptions import STRENGTHS, corrupt, corrupt_images


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def photographs(count: int = 3, side: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (
        torch.rand(count, 3, 9, 9, generator=generator),
        torch.rand(count, 3, side, side, generator=generator),
    )
    return (
        torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic") * 0.8
        + 0.2 * fine
    ).clamp(0, 1)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_corruption_does_more_with_each_severity_whatever_the_batch(kind: str) -> None:
    pixels = photographs(side=224)
    changes = []
    for severity in (1, 2, 3, 4, 5):
        made = corrupt(pixels, kind, severity, generators([1, 2, 3]))
        alone = corrupt(pixels[1:2], kind, severity, generators([2]))
        torch.testing.assert_close(made[1:2], alone, atol=1e-6, rtol=0)
        assert made.shape == pixels.shape
        assert made.min() >= 0
        assert made.max() <= 1
        changes.append(float((made - pixels).square().mean()))
    assert changes[0] > 0
    assert sorted(changes) == changes


def test_brightness_adds_to_the_value_of_hsv() -> None:
    pixels = photographs(1, 8)
    made = corrupt(pixels, "brightness", 3, generators([0]))
    for row, column in ((0, 0), (3, 5), (7, 7)):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[0, :, row, column].tolist())
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert made[0, :, row, column].tolist() == pytest.approx(wanted, abs=1e-4)


def test_contrast_and_noises_have_their_strength() -> None:
    pixels = photographs(1, 224) * 0 + 0.5
    noise = corrupt(pixels, "gaussian_noise", 1, generators([0])) - pixels
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02)
    impulse = corrupt(pixels, "impulse_noise", 5, generators([0]))
    assert [float((impulse == v).float().mean()) for v in (0, 1)] == pytest.approx(
        [0.135, 0.135], abs=0.005
    )
    varied = photographs(1)
    made = corrupt(varied, "contrast", 2, generators([0]))
    torch.testing.assert_close(made.mean(dim=(2, 3)), varied.mean(dim=(2, 3)))
    torch.testing.assert_close(made.std(dim=(2, 3)), 0.3 * varied.std(dim=(2, 3)))


def test_motion_blur_is_a_line_of_its_length() -> None:
    point = torch.zeros(1, 3, 224, 224)
    point[:, :, 112, 112] = 1
    made = corrupt(point, "motion_blur", 5, generators([4]))[0, 0]
    y, x = (torch.arange(224.0) - 112,) * 2
    weight = made / made.sum()
    covariance = torch.tensor(
        [
            [(weight * (y**2)[:, None]).sum(), (weight * y[:, None] * x).sum()],
            [0, (weight * x**2).sum()],
        ]
    )
    across, along = torch.linalg.eigvalsh(covariance, UPLO="U").clamp_min(0).sqrt().tolist()
    assert float(made.sum()) == pytest.approx(1, abs=1e-4)
    assert along == pytest.approx(
        ((19**2 - 1) / 12) ** 0.5, rel=0.08
    )  # a uniform line of 19 pixels
    assert across < 1


def test_normalised_images_are_corrupted_as_pictures() -> None:
    pixels, preprocessing = photographs(), Preprocessing()
    mean, std = (torch.tensor(c).view(-1, 1, 1) for c in (preprocessing.mean, preprocessing.std))
    made = corrupt_images(
        (pixels - mean) / std, "contrast", 5, generators([0, 1, 2]), preprocessing
    )
    torch.testing.assert_close(
        made * std + mean, corrupt(pixels, "contrast", 5, generators([0, 1, 2]))
    )


def test_what_does_not_exist_is_refused() -> None:
    pixels = photographs(1)
    with pytest.raises(InputError, match="did you mean 'motion_blur'"):
        corrupt(pixels, "motionblur", 1, generators([0]))
    with pytest.raises(InputError, match="severity is 6"):
        corrupt(pixels, "contrast", 6, generators([0]))
    with pytest.raises(InputError, match="2 generators"):
        corrupt(pixels, "contrast", 5, generators([0, 1]))

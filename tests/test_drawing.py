"""Maps of single pixels can be seen, what is drawn of them is said, and the colour bar stays
true.
"""

import math

import pytest
import torch

from lit_iba import Heatmap, drawing
from lit_iba.drawing import drawn_maps, fine_grained
from lit_iba.perturbation import gaussian_blur


def pixels(seed: int = 0, side: int = 112) -> torch.Tensor:
    """As of a gradient: both signs, strong in one place, with single pixels far above the rest."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    place = 0.1 + torch.exp(-8 * ((rows - 0.4) ** 2 + (columns + 0.3) ** 2))
    return (torch.randn(side, side, generator=generator) ** 3 * place)[None]


def blob(side: int = 112) -> torch.Tensor:
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    return torch.exp(-3 * (rows**2 + columns**2))[None] - 0.2


def test_only_maps_of_single_pixels_are_fine_grained_whatever_is_in_the_batch() -> None:
    both = torch.cat([pixels(), blob(), pixels(1, 112), torch.zeros(1, 112, 112)])
    assert fine_grained(both).tolist() == [True, False, True, False]
    assert [bool(fine_grained(one[None])) for one in both] == [True, False, True, False]


def test_regions_of_two_signs_are_drawn_with_their_sign() -> None:
    """Thin lines of zero between them, as VarSal's maps have, are no single pixels."""
    rows, columns = torch.meshgrid(*[torch.linspace(0, 40, 112)] * 2, indexing="ij")
    stripes = (2 * torch.sin(rows + 0.3 * columns)).clamp(-1, 1)[None]
    alone, blurred = stripes.abs(), gaussian_blur(stripes.abs()[:, None], 1.0, "reflect")[:, 0]
    assert float(blurred.var()) < 0.75 * float(alone.var())  # by sizes alone it would be one
    signs = torch.where(pixels() > 0, 1.0, -1.0)
    assert fine_grained(torch.cat([stripes, blob() * signs])).tolist() == [False, True]
    drawn = Heatmap(stripes, signed=True).drawn()
    assert (bool(drawn.fine), bool(drawn.signed)) == (False, True)
    assert drawn.values.equal(stripes)


@pytest.mark.parametrize("signed", [False, True])
def test_a_fine_map_is_drawn_by_blurred_sizes_so_that_it_can_be_seen(signed: bool) -> None:
    values = pixels() if signed else pixels().abs()
    heatmap, photograph = Heatmap(values, signed=signed), torch.full((1, 3, 112, 112), 90).byte()
    before = values.clone()
    covered = (heatmap.overlay(photograph).float() - 90 * 0.7 - 76.5 * 0.7).abs().amax(dim=1)
    place = covered[0, 60:100, 25:55]  # where the map is strong
    assert float((place > 60).float().mean()) > 0.3  # as single pixels: 0.02
    wanted = gaussian_blur(values.abs()[:, None], 1.0, "reflect")[:, 0]  # 2 pixels of 224
    drawn = heatmap.drawn()
    torch.testing.assert_close(drawn.values, wanted)
    torch.testing.assert_close(drawn.high, torch.quantile(wanted.flatten(1), 0.98, dim=1))
    assert heatmap.values.equal(before)
    sizes = "absolute values, " if signed else ""
    assert heatmap.how_drawn() == [f"drawn: {sizes}blurred, up to the 98th percentile"]
    assert heatmap.how_drawn()[0] in heatmap._repr_html_()


def test_the_bar_of_a_fine_map_has_the_colours_of_what_is_drawn() -> None:
    heatmap = Heatmap(pixels().abs(), unit="bits")
    drawn = heatmap.drawn()
    wide = heatmap.with_color_bar(heatmap.colored())
    ramp = wide[0, :, :, 112 + 8].int()  # its column of colours, the largest value on top
    bits = torch.linspace(float(drawn.high), float(drawn.low), 112)
    for row in (10, 50, 100):
        where = (drawn.values[0] - bits[row]).abs().flatten().argmin()
        shown = heatmap.colored()[0].flatten(1)[:, where].int()
        assert (shown - ramp[:, row]).abs().max() <= 12


def test_other_maps_are_drawn_as_they_are_and_keep_their_sign() -> None:
    values = blob()
    drawn = drawn_maps(values, signed=True)
    assert drawn.values.equal(values)
    torch.testing.assert_close(drawn.high, torch.quantile(values.abs().flatten(1), 0.999, dim=1))
    assert Heatmap(values, signed=True).how_drawn() == [""]
    mixed = Heatmap(torch.cat([values, pixels()]), signed=True)
    alone = [Heatmap(one[None], signed=True).colored()[0] for one in mixed.values]
    assert mixed.colored().equal(torch.stack(alone))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("signed", [False, True])
def test_what_is_no_number_is_drawn_as_zero(bad: float, signed: bool) -> None:
    maps = torch.cat([blob(32), -blob(32)])
    maps[0, 4:8, 4:8] = 0.0
    damaged = maps.clone()
    damaged[0, 4:8, 4:8] = bad
    picture = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    whole, other = (Heatmap(values, "bits", signed) for values in (maps, damaged))
    assert other.overlay(picture).equal(whole.overlay(picture))
    assert other.with_color_bar(picture).equal(whole.with_color_bar(picture))
    assert damaged[0, 5, 5].isfinite().logical_not()  # the map itself stays


def test_a_map_over_a_larger_picture_is_drawn_in_the_same_way() -> None:
    noise = torch.randn(1, 112, 112, generator=torch.Generator().manual_seed(0))
    heatmap = Heatmap(torch.cat([blob() / blob().std() + 0.75 * noise, blob()]), signed=True)
    assert heatmap.drawn().fine.tolist() == [True, False]
    for size in ((300, 300), (480, 640)):
        larger = heatmap.resize(size)
        assert larger.how_drawn() == heatmap.how_drawn()
        assert larger[1].colored().equal(larger.colored()[1:2])


def test_a_coarse_map_over_a_large_photograph_is_not_blurred(monkeypatch) -> None:
    heatmap = Heatmap(torch.rand(1, 7, 7)).resize((56, 56))  # a blur of megapixels takes seconds
    large, pictures = heatmap.resize((300, 200)), torch.zeros(1, 3, 300, 200, dtype=torch.uint8)
    expected = large.overlay(pictures)
    monkeypatch.setattr(drawing, "_blur", lambda maps: pytest.fail("it was blurred"))
    assert large.overlay(pictures).equal(expected)

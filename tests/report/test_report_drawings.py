"""Gallery layers against ``Heatmap.overlay``, outlines against a brute-force border, axes against
known points.
"""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lit_iba.heatmap import Heatmap
from lit_iba.report.box_plots import BoxPlot, box_plots, box_range
from lit_iba.report.curves import ticks
from lit_iba.report.decomposition import read_decompositions
from lit_iba.report.gallery import Gallery
from lit_iba.report.page_gallery import GalleryMethod, gallery_of
from lit_iba.report.pictures import backdrop_uri, drawn_map, layer_uri, outline
from lit_iba.report.run_folder import read_run
from lit_iba.report.side_by_side import save_side_by_side
from lit_iba.report.svg import Frame, box_axis, box_strip
from lit_iba.report.tables import build_tables


def test_captions_side_by_side_stay_below_their_own_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    write = Figure.savefig

    def savefig(figure: Figure, *given: Any, **more: Any) -> None:
        kept.append(figure)
        write(figure, *given, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = {f"method {i}": Heatmap(noise, signed=True, unit="bits") for i in range(4)}
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    save_side_by_side(tmp_path / "panel.png", picture, "Egyptian cat 73.5%", maps)
    kept[0].draw_without_rendering()
    for axes in kept[0].axes[1:]:
        assert "98th percentile" in axes.get_xlabel().replace("\n", " ")
        label, frame = axes.xaxis.label.get_window_extent(), axes.get_window_extent()
        assert label.width <= frame.width


def test_a_class_may_have_any_name_side_by_side(tmp_path: Path) -> None:
    maps = {"Saliency": Heatmap(torch.rand(1, 8, 8))}
    for name in (r"cost $5 and $\frac$ 73%", "Saliency"):
        save_side_by_side(
            tmp_path / "panel.png", torch.zeros(3, 8, 8, dtype=torch.uint8), name, maps
        )


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.85, 0.3])
def test_the_slider_shows_what_overlay_draws(signed: bool, strength: float) -> None:
    generator = torch.Generator().manual_seed(1)
    picture = torch.randint(0, 256, (3, 40, 56), generator=generator, dtype=torch.uint8)
    values = (
        torch.randn(40, 56, generator=generator)
        if signed
        else torch.rand(40, 56, generator=generator) ** 3
    )
    wanted = (
        Heatmap(values[None], signed=signed)
        .overlay(picture[None], strength=strength)[0]
        .permute(1, 2, 0)
        .numpy()
    )
    layer = np.asarray(
        opened(layer_uri(drawn_map(values, signed))).convert("RGBA"), dtype=np.float64
    )
    grey = (
        Heatmap(torch.zeros(1, 40, 56))
        .overlay(picture[None], strength=0)[0]
        .permute(1, 2, 0)
        .numpy()
    )
    alpha = layer[..., 3:] / 255 * strength
    shown = grey * (1 - alpha) + layer[..., :3] * alpha
    assert np.abs(shown - wanted).max() < 4  # 256 colours fix the opacity up to half a step
    assert np.abs(shown - wanted).mean() < 0.6


def test_layers_bear_flat_maps_and_values_that_are_no_numbers() -> None:
    for values in (
        torch.zeros(8, 9),
        torch.full((8, 9), float("nan")),
        torch.full((8, 9), float("inf")),
    ):
        assert opened(layer_uri(drawn_map(values, signed=False))).size == (9, 8)
    assert opened(backdrop_uri(torch.zeros(3, 8, 9, dtype=torch.uint8))).size == (9, 8)


def test_outline_is_the_border_between_inside_and_outside() -> None:
    mask = torch.rand(13, 17, generator=torch.Generator().manual_seed(3)) > 0.5
    edges = set()
    for x, y, kind, end in re.findall(r"M(\d+) (\d+)([HV])(\d+)", outline(mask)):
        start = int(x) if kind == "H" else int(y)
        for step in range(start, int(end)):
            edges.add((kind, step, int(y)) if kind == "H" else (kind, int(x), step))

    def inside(row: int, column: int) -> bool:
        return 0 <= row < 13 and 0 <= column < 17 and bool(mask[row, column])

    wanted = {("H", x, y) for y in range(14) for x in range(17) if inside(y - 1, x) != inside(y, x)}
    wanted |= {
        ("V", x, y) for y in range(13) for x in range(18) if inside(y, x - 1) != inside(y, x)
    }
    assert edges == wanted
    assert outline(torch.zeros(4, 4, dtype=torch.bool)) == ""


def test_axes_put_points_where_they_belong() -> None:
    frame = Frame(10, 20, 200, 100, 1, 100, -1, 1, log_x=True)
    assert frame.points([1, 10, 100, 0, 5], [1, 0, -1, 0, float("nan")]) == [
        (10, 20),
        (110, 70),
        (210, 120),
    ]
    assert ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0.03, 0.62) == [0.2, 0.4, 0.6]
    assert ticks(2, 2) == [2]


def test_boxes_and_their_axis_share_one_scale() -> None:
    boxes = [
        BoxPlot("a", "a", 0, (-1.0, 0.0, 1.0, 2.0, 3.0), 1.5),
        BoxPlot("b", "b", 1, (0.0, 0.5, 0.6, 0.7, 4.0), 4.0),
    ]
    low, high = box_range(boxes)
    assert (low, high) == (-1.0, 4.0)
    marks = re.findall(r'<text class="tick" x="([\d.]+)".*?>([−\d.]+)</text>', box_axis(low, high))
    scale = {float(text.replace("−", "-")): float(x) for x, text in marks}
    drawn = box_strip(boxes[0], low, high)
    lower, width = map(
        float, re.findall(r'class="box" x="([\d.]+)" y="4" width="([\d.]+)"', drawn)[0]
    )
    middle = float(re.findall(r'class="median" d="M([\d.]+) ', drawn)[0])
    whiskers = re.findall(r'class="reach" d="M([\d.]+) 12H[\d.]+M[\d.]+ 12H([\d.]+)M', drawn)[0]
    assert [lower, middle, lower + width] == pytest.approx(
        [scale[0.0], scale[1.0], scale[2.0]], abs=0.11
    )
    assert list(map(float, whiskers)) == pytest.approx([scale[-1.0], scale[3.0]], abs=0.11)
    assert box_range([BoxPlot("a", "a", 0, (2.0,) * 5, 2.0)]) == (1.5, 2.5)


def test_the_gallery_says_what_its_colours_begin_and_end_with() -> None:
    values = torch.linspace(0.5, 2.5, 40 * 40).view(1, 40, 40)
    zeros = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    gallery = Gallery(zeros, zeros[:, 0].bool(), {"iba": values, "cam": values}, ["a"], ["a dog"])
    methods = [GalleryMethod("iba", "IBA", 0, "bits"), GalleryMethod("cam", "CAM", 1, "plain")]
    page = str(gallery_of(gallery, methods, {}, [0]))
    assert page.count("data-high") == 1  # a map without a unit has no scale
    assert 'data-low="0.5" data-high="2.5"' in page
    assert '<span class="low">0.5</span>' in page
    assert '<span class="high">2.5</span> bits per pixel' in page
    assert str(gallery_of(gallery, methods[1:], {}, [0])).count("per pixel") == 0


def test_the_verdict_on_panels_is_of_errors_and_its_rows_are_means(tmp_path: Path) -> None:
    sums = {
        name: {
            "layers": ["input", "top"],
            "activity": [1.0 + k, 2.0],
            "bias_above": [3.0, 2.0 + k],
            "score": 4.0 + k,
            "completeness_error": [1e-7 * (1 + k), 2e-8],
        }
        for k, name in enumerate(("one", "two"))
    }
    (tmp_path / "sums.json").write_text(json.dumps(sums))
    found = read_decompositions(tmp_path)
    assert found is not None
    assert found.rows[0][1:4] == (1.5, 3.0, 4.5)
    assert found.rows[1][1:4] == (2.0, 2.5, 4.5)
    assert found.rows[0][-1] == 2e-7
    assert "2.0e-07" in found.verdict


@pytest.mark.parametrize("images", [1, 2, 9])
def test_a_box_needs_two_images(images: int, make_run: Callable[..., Path]) -> None:
    table = build_tables(read_run(make_run(images=images)))[0]
    boxes = box_plots(table, {row.name: 0 for row in table.rows})
    assert [box.name for box in boxes] == ([row.name for row in table.rows] if images > 1 else [])
    for box, row in zip(boxes, table.rows, strict=False):
        assert box.mean == pytest.approx(row.result.score)
        assert box.percentiles == tuple(np.percentile(row.values, (5, 25, 50, 75, 95)))

"""The gallery: pictures on which the reader switches methods, and all methods of one picture side
by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lit_iba.heatmap import Heatmap
from lit_iba.report.gallery import Gallery
from lit_iba.report.naming import bits, number
from lit_iba.report.pictures import backdrop_uri, layer_uri, outline, photograph_uri
from lit_iba.report.run_folder import RunFolder, score_rows
from lit_iba.report.tables import MetricTable, overview_order
from lit_iba.report.templates import Markup, render

_PIXELATED_BELOW = (
    128  # pixels a side: smaller pictures are shown with visible pixels instead of blur
)


@dataclass(frozen=True)
class GalleryMethod:
    """A method of the gallery; its kind says how its maps are drawn, ``"plain"``, ``"bits"`` or
    ``"signed"``.
    """

    name: str
    label: str
    color: int
    kind: str


@dataclass(frozen=True)
class _Layer:
    """A method's map on a picture; ``low`` and ``high`` are what its colours begin and end with,
    in bits per pixel, and empty where it has no unit.
    """

    method: GalleryMethod
    caption: str
    picture: str
    low: str
    high: str


@dataclass(frozen=True)
class _Figure:
    """A picture with the layers that can be laid over it."""

    key: str
    title: str
    width: int
    height: int
    border: str  # of the annotated object, as SVG path data
    backdrop: str
    photograph: str
    layers: list[_Layer]

    @property
    def heading(self) -> str:
        """Title and key, or the key alone where it is the title."""
        return f"{self.title} · {self.key}" if self.title != self.key else self.key

    @property
    def small(self) -> bool:
        """Whether the picture is shown with visible pixels."""
        return max(self.height, self.width) < _PIXELATED_BELOW


def gallery_section(
    run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int], pictures: int
) -> Markup:
    """The inside of the section, or nothing where the run has no pictures."""
    gallery = run.gallery
    if gallery is None or not len(gallery.pictures) or not gallery.heatmaps:
        return Markup()
    labels = dict(overview_order(run, tables))
    names = [name for name in labels if name in gallery.heatmaps]
    names += [name for name in gallery.heatmaps if name not in labels]
    methods = [
        GalleryMethod(name, labels.get(name, name), colors.get(name, -1), _kind(run, name))
        for name in names
    ]
    rows = {table.label: score_rows(run, table.name) for table in tables}
    return gallery_of(gallery, methods, rows, pictures)


def gallery_of(
    gallery: Gallery,
    methods: list[GalleryMethod],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    pictures: int,
) -> Markup:
    """Pictures on which the reader switches methods.

    Args:
        gallery: The pictures, with a heatmap of every method.
        methods: The methods, in the order of their buttons.
        rows: What each metric gives each method on each picture, by label, name and key.
        pictures: How many are shown at most.
    """
    count = min(pictures, len(gallery.pictures))
    return render(
        "report/gallery.html",
        methods=methods,
        ramps={signed: _ramp(signed) for signed in (False, True)},
        figures=[_figure(gallery, i, methods, rows) for i in range(count)],
        total=len(gallery.pictures),
    )


def _kind(run: RunFolder, name: str) -> str:
    info = run.explainers.get(name)
    return "signed" if info and info.signed else "bits" if info and info.unit == "bits" else "plain"


def _ramp(signed: bool) -> str:
    """The heatmap's own colours as a CSS gradient."""
    values = torch.linspace(-1 if signed else 0, 1, 9)[None, None]
    colors = Heatmap(values, signed=signed).colored()[0, :, 0].T.tolist()
    return f"linear-gradient(90deg,{','.join(f'rgb({r} {g} {b})' for r, g, b in colors)})"


def _figure(
    gallery: Gallery,
    index: int,
    methods: list[GalleryMethod],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> _Figure:
    picture, key = gallery.pictures[index], gallery.keys[index]
    height, width = picture.shape[-2:]
    layers = []
    for method in methods:
        values = gallery.heatmaps[method.name][index]
        scores = {metric: rows[metric].get(method.name, {}).get(key) for metric in rows}
        low, high = _ends(values, method.kind)
        shown = layer_uri(values, method.kind == "signed")
        layers.append(_Layer(method, _caption(values, method.kind, scores), shown, low, high))
    return _Figure(
        key=key,
        title=gallery.labels[index] or key,
        width=width,
        height=height,
        border=outline(gallery.object_mask[index]),
        backdrop=backdrop_uri(picture),
        photograph=photograph_uri(picture),
        layers=layers,
    )


def _ends(values: torch.Tensor, kind: str) -> tuple[str, str]:
    if kind != "bits" or not torch.isfinite(values).all():
        return "", ""
    return f"{float(values.min()):.2g}", f"{float(Heatmap(values[None]).limit()[0]):.2g}"


def _caption(values: torch.Tensor, kind: str, scores: Mapping[str, float | None]) -> str:
    """Bits of this heatmap where it has bits, and what each metric gives this very image."""
    parts = []
    if not torch.isfinite(values).all():
        parts.append("contains values that are no numbers, drawn as zero")
    elif kind == "bits":
        parts.append(f"{bits(float(values.sum()))} bits")
    parts += [f"{metric} {number(score)}" for metric, score in scores.items() if score is not None]
    return "\n".join(parts)

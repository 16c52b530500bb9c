"""The gallery: pictures on which the reader switches methods, and all methods of one picture side
by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lit_iba.drawing import Drawn, fine_grained, finite_values
from lit_iba.heatmap import Heatmap
from lit_iba.report.gallery import Gallery
from lit_iba.report.naming import bits, number
from lit_iba.report.pictures import (
    backdrop_uri,
    drawn_map,
    layer_uri,
    outline,
    photograph_uri,
    pixelated,
)
from lit_iba.report.run_folder import RunFolder, score_rows
from lit_iba.report.tables import MetricTable, overview_order
from lit_iba.report.telling import telling_pictures
from lit_iba.report.templates import Markup, render


@dataclass(frozen=True)
class Shown:
    """What the page's gallery shows of a run's: the place of each method's button by name, and the
    numbers of its pictures.
    """

    methods: Mapping[str, int]
    pictures: Sequence[int]


@dataclass(frozen=True)
class GalleryMethod:
    """A method of the gallery; its kind says how its maps are drawn, ``"plain"``, ``"bits"``,
    ``"signed"``, or ``"sizes"`` where only absolute values of signed maps are.
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
    scores: str  # of each metric, separated by spaces; "-" where there is none


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
        return pixelated(self.height, self.width)


def shown_in_gallery(run: RunFolder, tables: list[MetricTable], most: int) -> Shown:
    """The methods and pictures of the gallery: those on which the best method of a metric does best
    or worst, and the first others, ``most`` in all.
    """
    gallery = run.gallery
    if gallery is None or not len(gallery.pictures) or not gallery.heatmaps:
        return Shown({}, [])
    labels = dict(overview_order(run, tables))
    names = [name for name in labels if name in gallery.heatmaps]
    names += [name for name in gallery.heatmaps if name not in labels]
    telling = [
        number
        for table in tables
        for worst, best in [telling_pictures(table, run)]
        for number in (*worst, *best)
    ]
    chosen = list(dict.fromkeys([*telling, *range(len(gallery.pictures))]))[:most]
    return Shown({name: place for place, name in enumerate(names)}, sorted(chosen))


def gallery_section(
    run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int], shown: Shown
) -> Markup:
    """The inside of the section, or nothing where there are no pictures."""
    gallery = run.gallery
    if gallery is None or not shown.pictures:
        return Markup()
    labels = dict(overview_order(run, tables))
    methods = [
        GalleryMethod(name, labels.get(name, name), colors.get(name, -1), _kind(run, name))
        for name in shown.methods
    ]
    rows = {table.label: score_rows(run, table.name) for table in tables}
    worse_higher = [table.label for table in tables if table.info.better == "lower"]
    return gallery_of(gallery, methods, rows, shown.pictures, worse_higher)


def gallery_of(
    gallery: Gallery,
    methods: list[GalleryMethod],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    pictures: Sequence[int],
    worse_higher: Sequence[str] = (),
) -> Markup:
    """Pictures on which the reader switches methods.

    Args:
        gallery: The pictures, with a heatmap of every method.
        methods: The methods, in the order of their buttons.
        rows: What each metric gives each method on each picture, by label, name and key.
        pictures: The numbers of those that are shown.
        worse_higher: Metrics of which a lower score is better.
    """
    return render(
        "report/gallery.html",
        methods=[_as_drawn(method, gallery.heatmaps[method.name][pictures]) for method in methods],
        ramps={signed: ramp(signed) for signed in (False, True)},
        metrics=[(label, label in worse_higher) for label in rows],
        figures=[_figure(gallery, i, methods, rows) for i in pictures],
        total=len(gallery.pictures),
    )


def _as_drawn(method: GalleryMethod, values: torch.Tensor) -> GalleryMethod:
    """A method whose signs no map shows, because all are fine-grained, has the colours of sizes."""
    if method.kind == "signed" and len(values) and fine_grained(finite_values(values)).all():
        return replace(method, kind="sizes")
    return method


def kind_of(unit: str, signed: bool) -> str:
    """How maps are drawn, see :class:`GalleryMethod`."""
    return "signed" if signed else "bits" if unit == "bits" else "plain"


def _kind(run: RunFolder, name: str) -> str:
    info = run.explainers.get(name)
    return kind_of(info.unit, info.signed) if info else "plain"


def ramp(signed: bool) -> str:
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
        shown = drawn_map(values, method.kind == "signed")
        finite = bool(torch.isfinite(values).all())
        low, high = scale_ends(shown) if method.kind == "bits" and finite else ("", "")
        caption = _caption(values, method.kind, scores, shown)
        numbers = " ".join("-" if score is None else f"{score:.6g}" for score in scores.values())
        layers.append(_Layer(method, caption, layer_uri(shown), low, high, numbers))
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


def scale_ends(shown: Drawn) -> tuple[str, str]:
    """What the colours of a map begin and end with."""
    return f"{float(shown.low):.2g}", f"{float(shown.high):.2g}"


def _caption(
    values: torch.Tensor, kind: str, scores: Mapping[str, float | None], shown: Drawn
) -> str:
    """Bits of this heatmap where it has bits, and what each metric gives this very image."""
    parts = []
    if not torch.isfinite(values).all():
        parts.append("contains values that are no numbers, drawn as zero")
    elif kind == "bits":
        parts.append(f"{bits(float(values.sum()))} bits")
    parts += [f"{metric} {number(score)}" for metric, score in scores.items() if score is not None]
    parts += filter(None, shown.how(kind == "signed"))
    return "\n".join(parts)

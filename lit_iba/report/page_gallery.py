"""The gallery: pictures on which the reader switches methods, and all methods of one picture side by side."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import torch

from lit_iba.heatmap import Heatmap
from lit_iba.report.naming import bits, number
from lit_iba.report.page_parts import anchor
from lit_iba.report.pictures import backdrop_uri, layer_uri, outline, photograph_uri
from lit_iba.report.run_folder import Gallery, RunFolder, score_rows
from lit_iba.report.svg import color_class
from lit_iba.report.tables import MetricTable, overview_order

_PIXELATED_BELOW = 128  # pixels a side: smaller pictures are shown with visible pixels instead of blur


def gallery_section(run: RunFolder, tables: list[MetricTable], colors: Mapping[str, int], pictures: int) -> str:
    """The inside of the section, or an empty string where the run has no pictures."""
    gallery = run.gallery
    if gallery is None or not len(gallery.pictures) or not gallery.heatmaps:
        return ""
    labels = dict(overview_order(run, tables))
    methods = [name for name in labels if name in gallery.heatmaps]
    methods += [name for name in gallery.heatmaps if name not in labels]
    labels.update({name: name for name in methods if name not in labels})
    rows = {table.label: score_rows(run, table.name) for table in tables}
    count = min(pictures, len(gallery.pictures))
    figures = "".join(_figure(run, gallery, i, methods, labels, rows) for i in range(count))
    left_out = f" The first {count} of {len(gallery.pictures)} pictures." if count < len(gallery.pictures) else ""
    return (
        f'<div id="gallery"><h2>Pictures</h2><p class="lead">Choose a method to see it on every picture; choose a '
        f"picture to see every method on it. Keys: ← → or digits for the method, b for the boxes.{left_out}</p>"
        f'{_controls(run, methods, labels, colors)}<div class="pictures">{figures}</div>'
        '<dialog aria-label="All methods on one picture"><div class="dialog-head"><h3></h3><div>'
        '<button type="button" class="previous" aria-label="Previous picture">←</button>'
        '<button type="button" class="next" aria-label="Next picture">→</button>'
        '<button type="button" class="close">Close</button></div></div><div class="compare"></div></dialog></div>'
    )


def _kind(run: RunFolder, name: str) -> str:
    info = run.explainers.get(name)
    return "signed" if info and info.signed else "bits" if info and info.unit == "bits" else "plain"


def _controls(run: RunFolder, methods: list[str], labels: Mapping[str, str], colors: Mapping[str, int]) -> str:
    buttons = ['<button type="button" aria-pressed="false" data-method="photo" data-kind="photo">Photograph</button>']
    for i, name in enumerate(methods):
        swatch = f'<span class="swatch {color_class(colors.get(name, -1))}"></span>'
        buttons.append(
            f'<button type="button" aria-pressed="{"true" if i == 0 else "false"}" data-method="{anchor("m", i)}" '
            f'data-kind="{_kind(run, name)}">{swatch}{escape(labels[name])}</button>'
        )
    ends = {"plain": ("least", "most relevant"), "bits": ("0", "99.9th percentile, bits per pixel")}
    ends["signed"] = ("against", "for the class")
    kinds = dict.fromkeys(_kind(run, name) for name in methods)
    ramps = "".join(
        f'<label data-kind="{kind}"{" hidden" if i else ""}>{ends[kind][0]} '
        f'<span class="ramp" style="background:{_ramp(kind == "signed")}"></span> {ends[kind][1]}</label>'
        for i, kind in enumerate(kinds)
    )
    return (
        f'<div class="controls"><div class="switch" role="group" aria-label="Method">{"".join(buttons)}</div>'
        '<div class="tune"><label>Heatmap <input type="range" id="strength" min="0" max="100" value="85" '
        'aria-label="Opacity of the heatmap"></label>'
        '<label><input type="checkbox" id="boxes" checked> Object boxes</label>'
        f'<span class="ramps">{ramps}</span></div></div>'
    )


def _ramp(signed: bool) -> str:
    """The heatmap's own colours as a CSS gradient."""
    values = torch.linspace(-1 if signed else 0, 1, 9)[None, None]
    colors = Heatmap(values, signed=signed).colored()[0, :, 0].T.tolist()
    return f"linear-gradient(90deg,{','.join(f'rgb({r} {g} {b})' for r, g, b in colors)})"


def _figure(
    run: RunFolder,
    gallery: Gallery,
    index: int,
    methods: list[str],
    labels: Mapping[str, str],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    picture, key = gallery.pictures[index], gallery.keys[index]
    height, width = picture.shape[-2:]
    layers, captions = [], []
    for i, name in enumerate(methods):
        kind = _kind(run, name)
        values = gallery.heatmaps[name][index]
        captions.append(_caption(values, kind, {metric: rows[metric].get(name, {}).get(key) for metric in rows}))
        layers.append(
            f'<img class="layer{" on" if i == 0 else ""}" data-layer="{anchor("m", i)}" alt="{escape(labels[name])}" '
            f'data-caption="{escape(captions[i])}" src="{layer_uri(values, kind == "signed")}">'
        )
    border = outline(gallery.object_mask[index])
    boxes = (
        f'<svg class="boxes" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<path class="under" d="{border}"/><path class="over" d="{border}"/></svg>'
        if border
        else ""
    )
    title = gallery.labels[index] or key
    small = " pixels" if max(height, width) < _PIXELATED_BELOW else ""
    return (
        f'<figure data-title="{escape(f"{title} · {key}" if title != key else key)}">'
        f'<button type="button" class="stage{small}" style="aspect-ratio:{width}/{height}" '
        f'aria-label="Compare all methods on {escape(title)}">'
        f'<img class="base" alt="" src="{backdrop_uri(picture)}">'
        f'<img class="photo" data-layer="photo" alt="{escape(title)}" src="{photograph_uri(picture)}">'
        f"{''.join(layers)}{boxes}</button>"
        f'<figcaption><b>{escape(title)}</b> <span class="key">{escape(key) if key != title else ""}</span><br>'
        f'<span class="score">{escape(captions[0])}</span></figcaption></figure>'
    )


def _caption(values: torch.Tensor, kind: str, scores: Mapping[str, float | None]) -> str:
    """Bits of this heatmap where it has bits, and what each metric gives this very image."""
    parts = []
    if not torch.isfinite(values).all():
        parts.append("contains values that are no numbers, drawn as zero")
    elif kind == "bits":
        parts.append(f"{bits(float(values.sum()))} bits, at most {bits(float(values.max()))} per pixel")
    parts += [f"{metric} {number(score)}" for metric, score in scores.items() if score is not None]
    return "\n".join(parts)

"""The page of single photographs: every method on every photograph, to be switched and compared.

It is the report's gallery without a run behind it, in one file that needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.files import write_text
from lit_iba.heatmap import Heatmap
from lit_iba.report.curves import colors_of
from lit_iba.report.gallery import Gallery
from lit_iba.report.page import document
from lit_iba.report.page_gallery import GalleryMethod, gallery_of, kind_of


def write_explanations(
    path: Path,
    pictures: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    heatmaps: Mapping[str, Heatmap],
    facts: Sequence[tuple[str, object]],
    notices: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: Of the HTML file; it appears whole.
        pictures: uint8 (N, 3, H, W), as the classifier sees the photographs.
        names: Of the photographs.
        classes: What is explained in each, with its probability.
        heatmaps: Of each explainer by name, N maps.
        facts: Names and values of the line below the heading.
        notices: What the reader should know before the pictures, a sentence each.
    """
    colors = colors_of(list(heatmaps))
    methods = [
        GalleryMethod(name, label_of(name), colors[name], kind_of(heatmap.unit, heatmap.signed))
        for name, heatmap in heatmaps.items()
    ]
    gallery = Gallery(
        pictures,
        torch.zeros(len(pictures), *pictures.shape[-2:], dtype=torch.bool),
        {name: heatmap.values.float() for name, heatmap in heatmaps.items()},
        list(names),
        list(classes),
    )
    body = gallery_of(gallery, methods, {}, range(len(pictures)))
    write_text(path, document("Explanations", facts, [("pictures", "Pictures", body)], "", notices))


def label_of(name: str) -> str:
    """How an explainer is called in print: one of ours by its label, another name as it is."""
    if name not in EXPLAINERS and "." not in name:
        return name
    cls = explainer_class(name)
    return cls.label or cls.name or cls.__name__

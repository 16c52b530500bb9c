"""The page of single photographs: every method on every photograph, to be switched and compared.

It is the report's gallery without a run behind it, in one file that needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_iba.explainer import explainer_class
from lit_iba.files import write_text
from lit_iba.heatmap import Heatmap
from lit_iba.report.curves import colors_of
from lit_iba.report.gallery import Gallery
from lit_iba.report.naming import method_labels
from lit_iba.report.page import document
from lit_iba.report.page_gallery import GalleryMethod, gallery_of, kind_of
from lit_iba.report.run_folder import ExplainerInfo


def write_explanations(
    path: Path,
    pictures: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    heatmaps: Mapping[str, Heatmap],
    labels: Mapping[str, str],
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
        labels: What each explainer is called, see :func:`labels_of`.
        facts: Names and values of the line below the heading.
        notices: What the reader should know before the pictures, a sentence each.
    """
    colors = colors_of(list(heatmaps))
    methods = [
        GalleryMethod(name, labels[name], colors[name], kind_of(heatmap.unit, heatmap.signed))
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


def labels_of(explainers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """What explainers are called in print, no two alike: one of ours as in reports, a class by its
    own label, and another name as it is.

    Args:
        explainers: Class and settings by name.

    Example:
        >>> from lit_iba.report.explanations import labels_of
        >>> labels_of({"saliency": ("saliency", {}), "grad_cam": ("gradient", {})})
        {'saliency': 'Saliency', 'grad_cam': 'Gradient (grad_cam)'}
    """
    infos = {
        name: ExplainerInfo(cls, settings, "1", False, math.nan)
        for name, (cls, settings) in explainers.items()
    }
    labels = method_labels(infos)
    for name in labels:
        if "." in name and labels[name] == name == explainers[name][0]:  # a class path
            cls = explainer_class(name)
            label = cls.label or cls.name or cls.__name__
            labels[name] = label if label not in labels.values() else f"{label} ({name})"
    return labels

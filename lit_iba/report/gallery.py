"""The pictures that a run keeps for its report, with the heatmap of every explainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_iba.errors import InputError

MEND = "run `evaluate.py benchmark` again with the same run folder to write it again"


@dataclass(frozen=True)
class Gallery:
    """A few pictures and the heatmaps of every method on them.

    Args:
        pictures: uint8 (G, 3, H, W).
        object_mask: bool (G, H, W), all False where no box is known.
        heatmaps: Per method, float (G, H, W).
        keys: Name of each picture.
        labels: Class name of each picture, or its number, or an empty string.
        classes: Number of each picture's class, -1 where it has none; empty where nobody asks.
    """

    pictures: Tensor
    object_mask: Tensor
    heatmaps: Mapping[str, Tensor]
    keys: list[str]
    labels: list[str]
    classes: list[int] = field(default_factory=list)


def read_gallery(path: Path) -> Gallery | None:
    """The pictures of a run, or None where it kept none.

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
        if not names:
            return None
        pictures = tensors["pictures"]
        keys = [str(key) for key in json.loads(metadata.get("keys", "[]"))]
        class_names = json.loads(metadata.get("class_names", "null"))
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it to report without pictures, or {MEND}"
        ) from error
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.dtype != torch.uint8:
        raise InputError(
            f"{path}: pictures are {pictures.dtype} {tuple(pictures.shape)}, not uint8 (G, 3, H,"
            f" W); {MEND}"
        )
    count, size = len(pictures), pictures.shape[-2:]
    mask = tensors.get("object_mask", torch.zeros(count, *size, dtype=torch.bool)).bool()
    prefix = "heatmap/"
    heatmaps = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    for name, value in {"object_mask": mask, **heatmaps}.items():
        if value.shape != (count, *size):
            raise InputError(
                f"{path}: {name!r} has shape {tuple(value.shape)}, not {(count, *size)}; {MEND}"
            )
    labels = tensors.get("labels", torch.full((count,), -1)).tolist()
    return Gallery(
        pictures=pictures,
        object_mask=mask,
        heatmaps=heatmaps,
        keys=[keys[i] if i < len(keys) else str(i) for i in range(count)],
        labels=[_label(label, i, count, class_names) for i, label in enumerate(labels)],
        classes=labels,
    )


def _label(label: int, index: int, count: int, class_names: Any) -> str:
    """Class name of a picture; the names may be one per picture, one per class, or a dict from
    class number to name.
    """
    if label < 0:
        return ""
    if isinstance(class_names, dict):
        return str(class_names.get(str(label), label))
    if isinstance(class_names, list):
        if len(class_names) == count:
            return str(class_names[index])
        if label < len(class_names):
            return str(class_names[label])
    return str(label)

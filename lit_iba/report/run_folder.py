"""What a finished benchmark left in its folder, read into plain dataclasses and checked.

Only files are read here: results.json (needed), rows.csv, gallery.safetensors, config.yaml and command.txt (each may be
missing). Nothing is computed again.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_iba.errors import InputError

MEND = "run `evaluate.py benchmark` again with the same run folder to write it anew"


@dataclass(frozen=True)
class Curve:
    """One curve of a result; ``se`` is empty where there is no standard error."""

    x: list[float]
    y: list[float]
    se: list[float]


@dataclass(frozen=True)
class MethodResult:
    """One metric of one explainer, over ``n`` images."""

    score: float
    standard_error: float
    n: int
    extra: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class ExplainerInfo:
    """How a method was run, and what its values mean."""

    cls: str
    settings: Mapping[str, Any]
    unit: str
    signed: bool
    seconds_per_image: float
    completeness_error: float = math.nan  # relative to the sum that the method promises; NaN where it promises none


@dataclass(frozen=True)
class MetricInfo:
    """How a metric was run, and which direction is better."""

    cls: str
    settings: Mapping[str, Any]
    definition: str
    better: str


@dataclass(frozen=True)
class Gallery:
    """A few pictures and the heatmaps of every method on them.

    Args:
        pictures: uint8 (G, 3, H, W).
        object_mask: bool (G, H, W), all False where no box is known.
        heatmaps: Per method, float (G, H, W).
        keys: Name of each picture.
        labels: Class name of each picture, or its number, or an empty string.
    """

    pictures: Tensor
    object_mask: Tensor
    heatmaps: Mapping[str, Tensor]
    keys: list[str]
    labels: list[str]


@dataclass(frozen=True)
class RunFolder:
    """Everything that a report tells.

    Example:
        >>> from lit_iba.report import read_run
        >>> run = read_run("runs/digits")
        >>> list(run.metrics), run.results["bounding_box"]["saliency"].n
        (['bounding_box'], 8)
    """

    path: Path
    created: str
    command: str
    config: str
    classifier: Mapping[str, Any]
    data: Mapping[str, Any]
    explainers: Mapping[str, ExplainerInfo]
    metrics: Mapping[str, MetricInfo]
    results: Mapping[str, Mapping[str, MethodResult]]
    rows: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]  # metric, explainer, quantity, key
    gallery: Gallery | None


def read_run(folder: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        InputError: results.json is missing or damaged, or another file is there but cannot be read.

    Example:
        >>> from lit_iba.report import read_run
        >>> run = read_run("runs/digits")
        >>> sorted(run.explainers)
        ['random', 'saliency']
    """
    folder = Path(folder)
    document = _read_results(folder / "results.json")
    try:
        explainers = {name: _explainer(value) for name, value in document["explainers"].items()}
        metrics = {name: _metric(value) for name, value in document["metrics"].items()}
        results = {
            metric: {name: _result(value) for name, value in methods.items()}
            for metric, methods in document["results"].items()
        }
        command = _read_text(folder / "command.txt") or str(document.get("command", ""))
        classifier, data = dict(document.get("classifier") or {}), dict(document.get("data") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder / 'results.json'} is not a complete table of results ({said}); {MEND}") from error
    for metric, methods in results.items():
        metrics.setdefault(metric, MetricInfo(metric, {}, "", "higher"))
        for name in methods:
            explainers.setdefault(name, ExplainerInfo(name, {}, "1", False, math.nan))
    return RunFolder(
        path=folder,
        created=str(document.get("created", "")),
        command=command.strip(),
        config=_read_text(folder / "config.yaml"),
        classifier=classifier,
        data=data,
        explainers=explainers,
        metrics=metrics,
        results=results,
        rows=_read_rows(folder / "rows.csv"),
        gallery=_read_gallery(folder / "gallery.safetensors"),
    )


def _read_results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, so there is nothing to report; run `evaluate.py benchmark` into this folder first"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); {MEND}") from error
    if not isinstance(document, dict) or document.get("schema") != 1:
        schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{path} has schema {schema!r}, but this version reads schema 1; {MEND}")
    return document


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _explainer(value: Mapping[str, Any]) -> ExplainerInfo:
    return ExplainerInfo(
        cls=str(value.get("class", "")),
        settings=dict(value.get("settings") or {}),
        unit=str(value.get("unit", "1")),
        signed=bool(value.get("signed", False)),
        seconds_per_image=_float(value.get("seconds_per_image")),
        completeness_error=_float(value.get("completeness_error")),
    )


def _metric(value: Mapping[str, Any]) -> MetricInfo:
    better = str(value.get("better", "higher"))
    if better not in ("higher", "lower"):
        raise ValueError(f"'better' is {better!r} where 'higher' or 'lower' was expected")
    settings = dict(value.get("settings") or {})
    return MetricInfo(str(value.get("class", "")), settings, str(value.get("definition", "")), better)


def _result(value: Mapping[str, Any]) -> MethodResult:
    curves = {}
    for name, curve in (value.get("curves") or {}).items():
        x, y = ([_float(item) for item in curve[axis]] for axis in ("x", "y"))
        se = [_float(item) for item in curve.get("se") or []]
        if len(x) != len(y) or (se and len(se) != len(x)):
            raise ValueError(f"curve {name!r} has {len(x)} x, {len(y)} y and {len(se)} standard errors")
        curves[str(name)] = Curve(x, y, se)
    return MethodResult(
        score=_float(value["score"]),
        standard_error=_float(value.get("standard_error")),
        n=int(value.get("n") or 0),
        extra={str(name): _float(item) for name, item in (value.get("extra") or {}).items()},
        curves=curves,
        x_label=str(value.get("x_label") or ""),
        y_label=str(value.get("y_label") or ""),
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_rows(path: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    rows: dict[str, dict[str, dict[str, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    if not path.is_file():
        return rows
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"key", "explainer", "metric", "quantity", "value"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} starts with {reader.fieldnames}, not key,explainer,metric,quantity,value; {MEND}")
        try:
            for row in reader:
                rows[row["metric"]][row["explainer"]][row["quantity"]][row["key"]] = float(row["value"])
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {reader.line_num}, is damaged ({error}); {MEND}") from error
    return rows


def score_rows(run: RunFolder, metric: str) -> dict[str, dict[str, float]]:
    """Per method, each image's own score: the quantity of rows.csv whose mean is the score.

    A quantity called ``score``, or like the metric, is taken at its word; otherwise it is found by its mean, or because
    there is no other. An empty dict means that no quantity could be told to be the score.
    """
    methods = run.rows.get(metric, {})
    names = {quantity for quantities in methods.values() for quantity in quantities}
    scores = {name: result.score for name, result in run.results.get(metric, {}).items()}

    def explains_the_score(quantity: str) -> bool:
        means = [(_mean(methods[name].get(quantity, {})), score) for name, score in scores.items() if name in methods]
        return all(abs(mean - score) <= 1e-4 * max(1.0, abs(score)) for mean, score in means if math.isfinite(score))

    for preferred in ("score", metric):
        if preferred in names:
            chosen: str | None = preferred
            break
    else:
        fitting = sorted(filter(explains_the_score, names))
        chosen = fitting[0] if fitting else next(iter(names)) if len(names) == 1 else None
    if chosen is None:
        return {}
    return {name: dict(quantities.get(chosen, {})) for name, quantities in methods.items()}


def _mean(values: Mapping[str, float]) -> float:
    finite = [value for value in values.values() if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _read_gallery(path: Path) -> Gallery | None:
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
        raise InputError(f"{path} is damaged ({error}); delete it to report without pictures, or {MEND}") from error
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.dtype != torch.uint8:
        raise InputError(
            f"{path}: pictures are {pictures.dtype} {tuple(pictures.shape)}, not uint8 (G, 3, H, W); {MEND}"
        )
    count, size = len(pictures), pictures.shape[-2:]
    mask = tensors.get("object_mask", torch.zeros(count, *size, dtype=torch.bool)).bool()
    prefix = "heatmap/"
    heatmaps = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for name, value in {"object_mask": mask, **heatmaps}.items():
        if value.shape != (count, *size):
            raise InputError(f"{path}: {name!r} has shape {tuple(value.shape)}, not {(count, *size)}; {MEND}")
    labels = tensors.get("labels", torch.full((count,), -1)).tolist()
    return Gallery(
        pictures=pictures,
        object_mask=mask,
        heatmaps=heatmaps,
        keys=[keys[i] if i < len(keys) else str(i) for i in range(count)],
        labels=[_label(label, i, count, class_names) for i, label in enumerate(labels)],
    )


def _label(label: int, index: int, count: int, class_names: Any) -> str:
    """Class name of a picture; the names may be one a picture, one a class, or a dict from class number to name."""
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

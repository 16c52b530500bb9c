"""The folder of a run: how its files are written, and what they hold as plain dataclasses, checked.

Every run writes results.json here; a benchmark also rows.csv, gallery.safetensors, config.yaml and
command.txt, each of which may be missing when a report is made. Nothing is computed again.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_iba.errors import InputError
from lit_iba.files import read_text, whole_file, write_text
from lit_iba.report.gallery import MEND, Gallery, read_gallery

SCHEMA = (
    1  # of results.json; raise it when what is written here can no longer be read by what is below
)
RESULTS, ROWS, GALLERY = "results.json", "rows.csv", "gallery.safetensors"
CONFIG, COMMAND = "config.yaml", "command.txt"
COLUMNS = ("key", "explainer", "metric", "quantity", "value")


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
    completeness_error: float = (
        math.nan
    )  # relative to the sum that the method promises; NaN where it promises none
    label: str = ""  # how it is called in print, where the run says it
    control: bool = False  # whether the run says that it knows nothing of what it explains
    trained_with: Mapping[str, Any] = field(default_factory=dict)  # what its checkpoint says

    @property
    def known(self) -> dict[str, Any]:
        """The settings, with those that a trained explainer has from its checkpoint."""
        return {**self.trained_with, **self.settings}


@dataclass(frozen=True)
class MetricInfo:
    """How a metric was run, and which direction is better."""

    cls: str
    settings: Mapping[str, Any]
    definition: str
    better: str


@dataclass(frozen=True)
class RunFolder:
    """Everything that a report tells, as :func:`read_run` reads it; and how the files of a run are
    written.

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
    network: Mapping[str, Any]  # what makes the classifier again; empty where a run does not say
    data: Mapping[str, Any]
    explainers: Mapping[str, ExplainerInfo]
    metrics: Mapping[str, MetricInfo]
    results: Mapping[str, Mapping[str, MethodResult]]
    rows: Mapping[
        str, Mapping[str, Mapping[str, Mapping[str, float]]]
    ]  # metric, explainer, quantity, key
    gallery: Gallery | None

    @property
    def samples(self) -> str:
        """What was explained: images or reviews."""
        return "reviews" if self.data.get("kind") == "reviews" else "images"

    @property
    def sample(self) -> str:
        """One of them."""
        return self.samples.removesuffix("s")

    @staticmethod
    def heading() -> dict[str, Any]:
        """What ``results.json`` begins with: the schema, and when and by which command the run was
        made.
        """
        return {
            "schema": SCHEMA,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }

    @staticmethod
    def write_config(folder: Path, config: Mapping[str, Any]) -> None:
        """Write what a run was asked for: ``config.yaml``, and the command as it was typed."""
        write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
        write_text(folder / COMMAND, shlex.join(sys.argv) + "\n")

    @staticmethod
    def write_rows(folder: Path, rows: Iterable[tuple[str, str, str, str, float]]) -> None:
        """Write ``rows.csv``: for each number its image's key, explainer, metric, quantity and
        value.
        """
        with (
            whole_file(folder / ROWS) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)

    @staticmethod
    def write(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``results.json``, the last file of a run; numbers that do not exist (NaN) become
        null.

        Args:
            folder: Of the run.
            results: What the run found, with a :meth:`heading`.

        Returns:
            The same, as it is read again.
        """
        write_text(
            folder / RESULTS,
            json.dumps(_finite(results), indent=1, default=str, allow_nan=False) + "\n",
        )
        return RunFolder.read(folder)

    @staticmethod
    def read(folder: Path) -> dict[str, Any]:
        """The content of ``results.json``, of whatever kind the run is.

        Raises:
            InputError: It is missing, damaged or of another schema.
        """
        return _read_results(folder / RESULTS)


def _finite(value: Any) -> Any:
    """The same nested lists and dicts with None where a number is NaN or infinite, for which JSON
    has no word.
    """
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    document = RunFolder.read(folder)
    try:
        explainers = {name: _explainer(value) for name, value in document["explainers"].items()}
        metrics = {name: _metric(value) for name, value in document["metrics"].items()}
        results = {
            metric: {name: _result(value) for name, value in methods.items()}
            for metric, methods in document["results"].items()
        }
        command = _read_text(folder / COMMAND) or str(document.get("command", ""))
        classifier, network, data = (
            dict(document.get(name) or {}) for name in ("classifier", "network", "data")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{folder / RESULTS} is not a complete table of results ({said}); {MEND}"
        ) from error
    for metric, methods in results.items():
        metrics.setdefault(metric, MetricInfo(metric, {}, "", "higher"))
        for name in methods:
            explainers.setdefault(name, ExplainerInfo(name, {}, "1", False, math.nan))
    return RunFolder(
        path=folder,
        created=str(document.get("created", "")),
        command=command.strip(),
        config=_read_text(folder / CONFIG),
        classifier=classifier,
        network=network,
        data=data,
        explainers=explainers,
        metrics=metrics,
        results=results,
        rows=_read_rows(folder / ROWS),
        gallery=read_gallery(folder / GALLERY),
    )


def _read_results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, so there is nothing to report; run `evaluate.py benchmark`"
            " into this folder first"
        )
    try:
        document = json.loads(read_text(path, "results"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); {MEND}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(
            f"{path} has schema {schema!r}, but this version reads schema {SCHEMA}; {MEND}"
        )
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
        label=str(value.get("label", "")),
        control=value.get("control") is True,
        trained_with=dict(value.get("trained_with") or {}),
    )


def _metric(value: Mapping[str, Any]) -> MetricInfo:
    better = str(value.get("better", "higher"))
    if better not in ("higher", "lower"):
        raise ValueError(f"'better' is {better!r} where 'higher' or 'lower' was expected")
    settings = dict(value.get("settings") or {})
    return MetricInfo(
        str(value.get("class", "")), settings, str(value.get("definition", "")), better
    )


def _result(value: Mapping[str, Any]) -> MethodResult:
    curves = {}
    for name, curve in (value.get("curves") or {}).items():
        x, y = ([_float(item) for item in curve[axis]] for axis in ("x", "y"))
        se = [_float(item) for item in curve.get("se") or []]
        if len(x) != len(y) or (se and len(se) != len(x)):
            raise ValueError(
                f"curve {name!r} has {len(x)} x, {len(y)} y and {len(se)} standard errors"
            )
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
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise InputError(
                f"{path} starts with {reader.fieldnames}, not {','.join(COLUMNS)}; {MEND}"
            )
        try:
            for row in reader:
                rows[row["metric"]][row["explainer"]][row["quantity"]][row["key"]] = float(
                    row["value"]
                )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}, line {reader.line_num}, is damaged ({error}); {MEND}"
            ) from error
    return rows


def score_rows(run: RunFolder, metric: str) -> dict[str, dict[str, float]]:
    """Per method, each image's own score: the quantity of rows.csv whose mean is the score.

    A quantity called ``score``, or like the metric, is taken at its word; otherwise it is found by
    its mean, or because there is no other. An empty dict means that no quantity could be told to be
    the score.
    """
    methods = run.rows.get(metric, {})
    names = {quantity for quantities in methods.values() for quantity in quantities}
    scores = {name: result.score for name, result in run.results.get(metric, {}).items()}

    def explains_the_score(quantity: str) -> bool:
        return all(
            is_mean(list(methods[name].get(quantity, {}).values()), score)
            for name, score in scores.items()
            if name in methods and math.isfinite(score)
        )

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


def is_mean(values: Sequence[float], score: float) -> bool:
    """Whether a score is the mean of these values, those left out that are no numbers.

    It is so within a thousandth of their standard deviation, far below what an interval shows, and
    what float32 leaves of their size: whatever their scale, seconds or divergences.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or not math.isfinite(score):
        return False
    allowed = 1e-3 * statistics.pstdev(finite) + 1e-6 * max(map(abs, finite))
    return abs(statistics.fmean(finite) - score) <= allowed

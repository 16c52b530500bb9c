"""Every quantity of a run's rows.csv: medians and quartiles, paired tests, and how it goes over the
layers.

Grabska-Barwińska, "Measuring and improving the quality of visual explanations": its numbers are
medians over images, its p values are of paired tests of e- or delta e- (figures 5, 6 and 9, within
a network and between two), and its figures are drawn over layers.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from lit_iba.errors import InputError, unknown_name
from lit_iba.report.questions import same_metric
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.runs import run_labels
from lit_iba.report.significance import holm, signed_rank_test

QUARTILES = (0.25, 0.5, 0.75)
NUMBERED = re.compile(r"(.*?[^\W\d])_?(\d+)")  # a number behind a word, no part of 0.1
Row = TypeVar("Row")


@dataclass(frozen=True)
class Spread:
    """A quantity of one method over ``images``, those without a number left out;
    ``standard_error`` is its mean's.
    """

    metric: str
    explainer: str
    quantity: str
    images: int
    mean: float
    standard_error: float
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class Paired:
    """A quantity of two methods on the same images, first minus second. The second is of the other
    run named ``against``, or of the same run where that is empty.

    ``p_value`` is that of the two-sided Wilcoxon signed-rank test, ``adjusted`` the same after Holm
    over all pairs of the metric and quantity, those with every other run together; ``share`` is how
    many of the images have the larger value first, ties left out.
    """

    metric: str
    quantity: str
    first: str
    second: str
    images: int
    mean_difference: float
    standard_error: float
    median_difference: float
    share: float
    p_value: float
    adjusted: float
    against: str = ""


def spreads(run: RunFolder) -> list[Spread]:
    """Mean, median and quartiles of every quantity that rows.csv holds.

    Example:
        >>> from lit_iba.report import read_run
        >>> from lit_iba.report.quantities import spreads
        >>> first = spreads(read_run("runs/digits"))[0]
        >>> first.lower_quartile <= first.median <= first.upper_quartile
        True
    """
    found = []
    for metric, explainer, quantity, values in _columns(run):
        numbers = np.array([v for v in values.values() if math.isfinite(v)])
        if len(numbers):
            low, middle, high = (float(q) for q in np.quantile(numbers, QUARTILES))
            mean = float(numbers.mean()), _standard_error(numbers)
            found.append(
                Spread(metric, explainer, quantity, len(numbers), *mean, low, middle, high)
            )
    return found


def paired(
    run: RunFolder, pairs: Sequence[Sequence[str]] = (), others: Sequence[RunFolder] = ()
) -> list[Paired]:
    """Paired tests of every quantity: of the pairs of methods within a run, or, where others are
    given, of each method (or of the pairs) of this run with that of each other, image by image.

    Within a run, quantities that are of the image alone, such as the share of a box, are left out.

    Args:
        run: Has the first of each pair.
        pairs: Names of two explainers each; with other runs and without pairs, those that both runs
            have. A name with ``*``, ``?`` or ``[1-9]`` stands for all explainers that match, whose
            mean is taken image by image: ``["activity_*", "bias_*"]`` compares over all layers.
        others: Each has the second, of another network for example.

    Raises:
        InputError: A name that the run does not have, an item that is no pair, or runs that have no
            image and no quantity in common.

    Example:
        >>> from lit_iba.report import read_run
        >>> from lit_iba.report.quantities import paired
        >>> run = read_run("runs/digits")
        >>> paired(run, others=[run])[0].mean_difference
        0.0
    """
    labels = run_labels([run.path, *(other.path for other in others)])[1:]
    found = []
    for other, label in list(zip(others, labels, strict=True)) or [(run, "")]:
        both = [(name, name) for name in run.explainers if name in other.explainers]
        wanted = pairs or (both if others else [])
        _check_pairs(wanted, run, other)
        tests = [
            row
            for metric in run.rows
            for quantity in dict.fromkeys(q for rows in run.rows[metric].values() for q in rows)
            if other is run or same_metric(run, other, metric)
            if others or quantity == "score" or _is_of_the_method(run, metric, quantity)
            for row in _tested(metric, quantity, wanted, run, other, label)
        ]
        if not tests and (wanted or others):
            raise InputError(
                f"the methods to compare{f' with {other.path}' if others else ''} have no image and"
                " quantity in common; give runs of the same data and metrics"
            )
        found += tests
    return _adjusted(found)


def _is_of_the_method(run: RunFolder, metric: str, quantity: str) -> bool:
    """Whether it differs between any two methods of the run."""
    first, *rest = (rows.get(quantity) for rows in run.rows[metric].values())
    return any(values != first for values in rest)


def _check_pairs(pairs: Sequence[Sequence[str]], run: RunFolder, other: RunFolder) -> None:
    for pair in pairs:
        if len(pair) != 2:
            raise InputError(f"{list(pair)} is no pair; give two names of explainers each")
        for name, where in zip(pair, (run, other), strict=True):
            if not _meant(name, where):
                raise unknown_name("explainer of the run", name, where.explainers)


def _meant(name: str, run: RunFolder) -> list[str]:
    """The explainers that a name of a pair stands for."""
    if name in run.explainers:
        return [name]
    return [explainer for explainer in run.explainers if fnmatchcase(explainer, name)]


def _of_images(name: str, run: RunFolder, metric: str, quantity: str) -> dict[str, float]:
    """The quantity of each image, as a mean over the explainers that the name stands for; images
    that one of them has no number of are left out.
    """
    rows = run.rows.get(metric, {})
    parts = [rows.get(explainer, {}).get(quantity, {}) for explainer in _meant(name, run)]
    keys = set.intersection(*(set(part) for part in parts))
    means = {key: sum(part[key] for part in parts) / len(parts) for key in keys}
    return {key: value for key, value in means.items() if math.isfinite(value)}


def over_layers(run: RunFolder) -> dict[tuple[str, str], dict[str, list[tuple[int, Spread]]]]:
    """What a chart over layers draws, by metric and quantity: a line for each group of two or more
    explainers that are numbered (``activity_00``, ``activity_01``, ...) and of different layers, in
    the order of their numbers. Other numbers, such as ``occlusion_8``'s, are of no layer.

    Example:
        >>> from lit_iba.report import read_run
        >>> from lit_iba.report.quantities import over_layers
        >>> over_layers(read_run("runs/digits"))  # nothing is numbered there
        {}
    """
    found: dict[tuple[str, str], dict[str, list[tuple[int, Spread]]]] = {}
    for row in spreads(run):
        match = NUMBERED.fullmatch(row.explainer)
        drawn = row.quantity == "score" or _is_of_the_method(run, row.metric, row.quantity)
        if match and drawn:
            groups = found.setdefault((row.metric, row.quantity), {})
            groups.setdefault(match[1], []).append((int(match[2]), row))
    lines = {
        key: {
            name: sorted(points, key=lambda point: point[0])
            for name, points in groups.items()
            if len(points) > 1 and _of_different_layers(run, [row for _, row in points])
        }
        for key, groups in found.items()
    }
    return {key: groups for key, groups in lines.items() if groups}


def _of_different_layers(run: RunFolder, rows: Sequence[Spread]) -> bool:
    settings = [run.explainers[row.explainer].settings for row in rows]
    layers = [given.get("layers", given.get("layer")) for given in settings]
    return None not in layers and len(set(map(str, layers))) == len(layers)


def as_csv(rows: Sequence[Row], kind: type[Row]) -> str:
    """Rows of a dataclass as the text of a CSV file, with its fields as heads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(kind))  # type: ignore[arg-type]
    writer.writerows(astuple(row) for row in rows)  # type: ignore[call-overload]
    return text.getvalue()


def _columns(run: RunFolder) -> Iterator[tuple[str, str, str, Mapping[str, float]]]:
    for metric, explainers in run.rows.items():
        for explainer, quantities in explainers.items():
            for quantity, values in quantities.items():
                yield metric, explainer, quantity, values


def _standard_error(values: np.ndarray[Any, Any]) -> float:
    """Of a mean of images; not a number for one."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _tested(
    metric: str,
    quantity: str,
    pairs: Sequence[Sequence[str]],
    run: RunFolder,
    other: RunFolder,
    against: str,
) -> list[Paired]:
    found = []
    for first, second in pairs:
        ours = _of_images(first, run, metric, quantity)
        theirs = _of_images(second, other, metric, quantity)
        both = np.array([(ours[key], theirs[key]) for key in sorted(ours.keys() & theirs.keys())])
        if len(both):
            difference = both[:, 0] - both[:, 1]
            apart = difference[difference != 0]
            found.append(
                (
                    *(first, second, len(both)),
                    *(float(difference.mean()), _standard_error(difference)),
                    float(np.median(difference)),
                    float((apart > 0).mean()) if len(apart) else math.nan,
                    signed_rank_test(both[:, 0], both[:, 1])[0],
                )
            )
    return [Paired(metric, quantity, *row, math.nan, against) for row in found]


def _adjusted(tests: Sequence[Paired]) -> list[Paired]:
    """The same with Holm's correction, over the pairs and the runs of each metric and quantity."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, test in enumerate(tests):
        families.setdefault((test.metric, test.quantity), []).append(i)
    found = list(tests)
    for family in families.values():
        p_values = holm([tests[i].p_value for i in family])
        for i, p_value in zip(family, p_values, strict=True):
            found[i] = replace(tests[i], adjusted=p_value)
    return found

"""Whether two runs answer the same question: what else than the numbers differs between them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.report.naming import listed
from lit_iba.report.published import canonical, with_defaults
from lit_iba.report.run_folder import RunFolder

UNSAID = object()  # by a run of an older version, or of another kind
SPEED = ("forward_batch_size",)  # settings that change no number
DRAWN = "max_images", "seed"  # of which images, not of what is asked about each


def same_metric(run: RunFolder, other: RunFolder, metric: str) -> bool:
    """Whether a name stands for the same metric in both runs: one of the same class, and better in
    the same direction. The numbers of two metrics are never compared.

    Example:
        >>> from lit_iba.report import read_run
        >>> from lit_iba.report.questions import same_metric
        >>> run = read_run("runs/digits")
        >>> same_metric(run, run, "bounding_box")
        True
    """
    mine, theirs = run.metrics.get(metric), other.metrics.get(metric)
    if mine is None or theirs is None:
        return False
    kinds = {canonical("metrics", info.cls or metric) for info in (mine, theirs)}
    return len(kinds) == 1 and mine.better == theirs.better


def differences(first: str, second: str, run: RunFolder, other: RunFolder) -> list[str]:
    """What else differs between two runs than the numbers, a sentence each.

    Args:
        first: What the run is called.
        second: What the other is called.
        run: The run.
        other: The other.
    """
    found = [
        *_of_network(first, second, run, other),
        *_of_data(first, second, run, other),
        *_of_metrics(first, second, run, other),
    ]
    for name in run.explainers.keys() & other.explainers.keys():
        mine, theirs = run.explainers[name], other.explainers[name]
        if canonical("explainers", mine.cls or name) != canonical("explainers", theirs.cls or name):
            found.append(
                f"{name} is another explainer in each: {mine.cls} in {first}, {theirs.cls} in"
                f" {second}."
            )
        elif text := changed(
            _whole(mine.cls or name, mine.known),
            _whole(theirs.cls or name, theirs.known),
            "its default",
        ):
            found.append(f"The explainer {name} is set differently: {text}.")
    return sorted(found)


def changed(mine: Mapping[str, Any], theirs: Mapping[str, Any], absent: str = "unsaid") -> str:
    """The settings that differ, with both values; those that only decide speed left out.

    Args:
        mine: Of the one.
        theirs: Of the other.
        absent: What is written for a setting that one of them does not have.
    """
    names = [
        name
        for name in {**mine, **theirs}
        if name not in SPEED and mine.get(name, UNSAID) != theirs.get(name, UNSAID)
    ]
    return ", ".join(
        f"{name} {mine.get(name, absent)} and {theirs.get(name, absent)}" for name in names
    )


def _whole(cls: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """An explainer's settings as a config gives them, with the defaults of those that are left out,
    where it is one of ours.
    """
    name = canonical("explainers", cls)
    if name not in EXPLAINERS:
        return dict(given)
    taken = inspect.signature(explainer_class(name)).parameters
    defaults = {
        key: one.default for key, one in taken.items() if one.default is not inspect.Parameter.empty
    }
    return defaults | with_defaults(name, given)


def _of_network(first: str, second: str, run: RunFolder, other: RunFolder) -> list[str]:
    found = []
    mine, theirs = (r.classifier.get("sha256") or r.classifier for r in (run, other))
    if mine != theirs:
        found.append(f"{first} and {second} explain different networks.")
    mine, theirs = (r.classifier.get("objective") for r in (run, other))
    if mine != theirs:
        found.append(
            f"{first} and {second} ask their networks for different things: objective"
            f" {mine or 'classification'} and {theirs or 'classification'}."
        )
    mine, theirs = (r.network.get("preprocessing", UNSAID) for r in (run, other))
    if UNSAID not in (mine, theirs) and (text := changed(mine, theirs)):
        found.append(f"{first} and {second} prepare pictures differently: {text}.")
    return found


def _of_data(first: str, second: str, run: RunFolder, other: RunFolder) -> list[str]:
    found = []
    identities = [r.data.get("identity") for r in (run, other)]
    silent = [
        label for label, known in zip((first, second), identities, strict=True) if known is None
    ]
    if silent:
        found.append(
            f"{' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not say which"
            f" {run.samples} they are; only rows of the same key are compared, and a key may stand"
            " for another one."
        )
    elif identities[0] != identities[1]:
        found.append(
            f"{first} and {second} are of different data; only rows of the same key are compared."
        )
    if run.data.get("size") != other.data.get("size"):
        found.append(f"{first} and {second} have pictures of different sizes.")
    mine, theirs = (r.data.get("target", UNSAID) for r in (run, other))
    if UNSAID not in (mine, theirs) and mine != theirs:
        found.append(f"{first} and {second} explain different classes: target {mine} and {theirs}.")
    mine, theirs = _selection(run), _selection(other)
    if asked := _both(mine, theirs, [name for name in mine if name not in DRAWN]):
        found.append(f"{first} and {second} judge other {run.samples}: {asked}.")
    if drawn := _both(mine, theirs, DRAWN):
        found.append(f"{first} and {second} draw their {run.samples} differently: {drawn}.")
    mine, theirs = (r.data.get("statistics_files", {}) for r in (run, other))
    if measured := [n for n in mine if n in theirs and mine[n] != theirs[n]]:
        found.append(
            f"{listed(measured)} have statistics of other texts, or other files, in {first} than in"
            f" {second}."
        )
    return found


def _selection(run: RunFolder) -> dict[str, Any]:
    """Which samples a run takes, as far as it says."""
    left_out = run.data.get("left_out")
    known = {"min_probability": left_out.get("min_probability")} if left_out else {}
    return known | dict(run.data.get("selection") or {})


def _both(mine: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str]) -> str:
    """Of these settings those that differ, where both runs say them."""
    shared = [name for name in names if name in mine and name in theirs]
    return changed({n: mine[n] for n in shared}, {n: theirs[n] for n in shared})


def _of_metrics(first: str, second: str, run: RunFolder, other: RunFolder) -> list[str]:
    found = []
    for name in run.metrics.keys() & other.metrics.keys():
        mine, theirs = run.metrics[name], other.metrics[name]
        if not same_metric(run, other, name):
            found.append(
                f"{name} is another metric in each and is not compared: {mine.cls} in {first},"
                f" {theirs.cls} in {second}."
            )
        elif text := changed(mine.settings, theirs.settings, "unused"):
            found.append(f"The metric {name} is set differently: {text}.")
        ours, others = (
            {r.n for r in results.get(name, {}).values()}
            for results in (run.results, other.results)
        )
        if same_metric(run, other, name) and ours and others and ours != others:
            found.append(
                f"The means of {name} are over different numbers of {run.samples}: {_counts(ours)}"
                f" in {first}, {_counts(others)} in {second}; the tests take those of both."
            )
    return found


def _counts(counts: set[int]) -> str:
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

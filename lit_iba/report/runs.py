"""Several runs side by side: the scores of each method in each of them, tested image by image.

Two runs differ in the classifier, in the settings of a method, or in the seed, and share images;
methods of the same name are compared. What else differs between them is said, because it makes the
comparison unfair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_iba.report.naming import listed, method_labels, metric_labels, metric_samples
from lit_iba.report.questions import differences, same_metric
from lit_iba.report.run_folder import MethodResult, MetricInfo, RunFolder, score_rows
from lit_iba.report.significance import SIGNIFICANCE, holm, signed_rank_test
from lit_iba.report.templates import Markup, render


@dataclass(frozen=True)
class Cell:
    """A method in one run: its result, and how it stands to the first run on the images of both,
    1 better, -1 worse, 0 not separated; None where it cannot be tested.
    """

    result: MethodResult
    ahead: int | None = None
    adjusted: float | None = None
    images: int = 0


@dataclass(frozen=True)
class ComparedMetric:
    """One metric: its methods, and a cell of each run, None where a run does not have it."""

    label: str
    samples: str
    info: MetricInfo
    rows: list[tuple[str, list[Cell | None]]]

    @property
    def counts_differ(self) -> bool:
        """Whether means of different numbers of samples stand beside each other."""
        counts = {cell.result.n for _, cells in self.rows for cell in cells if cell is not None}
        return len(counts) > 1


@dataclass(frozen=True)
class ComparedRuns:
    """Runs side by side.

    Args:
        labels: Of the runs, the first being the one that the others are held against.
        verdicts: A sentence on each other run.
        cautions: What else differs between the runs.
        metrics: Those that the first run shares with another.
    """

    labels: list[str]
    verdicts: list[str]
    cautions: list[str]
    metrics: list[ComparedMetric]


def run_labels(paths: Sequence[Path]) -> list[str]:
    """What runs are called: the ends of their paths, as short as tells them apart.

    Example:
        >>> from pathlib import Path
        >>> from lit_iba.report.runs import run_labels
        >>> run_labels([Path("a/table"), Path("b/table"), Path("b/other")])
        ['a/table', 'b/table', 'b/other']
    """
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def compare_runs(run: RunFolder, others: Sequence[RunFolder]) -> ComparedRuns:
    """Hold other runs against a first one.

    Example:
        >>> from lit_iba.report import read_run
        >>> from lit_iba.report.runs import compare_runs
        >>> run = read_run("runs/digits")
        >>> compare_runs(run, [run]).metrics[0].rows[0][1][1].ahead  # equal on every image
        0
    """
    labels = run_labels([run.path, *(other.path for other in others)])
    names = metric_labels(run)
    metrics = [
        _metric(metric, names[metric], run, others)
        for metric in run.results
        if any(metric in other.results and same_metric(run, other, metric) for other in others)
    ]
    verdicts = [_verdict(i, labels, metrics) for i in range(1, len(labels))]
    cautions = [
        text
        for label, other in zip(labels[1:], others, strict=True)
        for text in differences(labels[0], label, run, other)
    ]
    return ComparedRuns(labels, verdicts, cautions, metrics)


def runs_section(compared: ComparedRuns) -> Markup:
    """The inside of the section."""
    return render("report/runs.html", compared=compared, significance=SIGNIFICANCE)


def _metric(metric: str, label: str, run: RunFolder, others: Sequence[RunFolder]) -> ComparedMetric:
    ours = score_rows(run, metric)
    has = [metric in other.results and same_metric(run, other, metric) for other in others]
    theirs = [
        score_rows(other, metric) if there else {} for other, there in zip(others, has, strict=True)
    ]
    sign = -1 if run.metrics[metric].better == "lower" else 1
    tests: dict[tuple[str, int], tuple[float, int, int]] = {}
    for name in run.results[metric]:
        for i, per_image in enumerate(theirs):
            found = _tested(ours.get(name, {}), per_image.get(name, {}))
            if found is not None:
                tests[name, i] = found
    adjusted = dict(zip(tests, holm([test[0] for test in tests.values()]), strict=True))

    def cell(name: str, i: int) -> Cell | None:
        result = others[i].results[metric].get(name) if has[i] else None
        if result is None or (name, i) not in tests:
            return None if result is None else Cell(result)
        _, ranks, images = tests[name, i]
        p_value = adjusted[name, i]
        return Cell(result, sign * ranks if p_value < SIGNIFICANCE else 0, p_value, images)

    everyone = dict(run.explainers)
    for other in others:
        everyone = {**other.explainers, **everyone}
    labels = method_labels(everyone)
    rows = []
    for name, text in labels.items():
        first = run.results[metric].get(name)
        cells = [
            None if first is None else Cell(first),
            *(cell(name, i) for i in range(len(others))),
        ]
        if any(one is not None for one in cells):
            rows.append((text, cells))
    return ComparedMetric(label, metric_samples(run, metric), run.metrics[metric], rows)


def _tested(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> tuple[float, int, int] | None:
    """p-value, the sign of theirs less ours, and the number of images that both have."""
    both = np.array([(theirs[key], ours[key]) for key in sorted(ours.keys() & theirs.keys())])
    both = both[np.isfinite(both).all(axis=1)] if len(both) else both
    if not len(both):
        return None
    p_value, ranks = signed_rank_test(both[:, 0], both[:, 1])
    return p_value, int(np.sign(ranks)), len(both)


def _verdict(index: int, labels: Sequence[str], metrics: Sequence[ComparedMetric]) -> str:
    ways: dict[int, list[str]] = {1: [], -1: [], 0: []}
    images, samples = set[int](), dict[str, None]()
    for metric in metrics:
        for method, cells in metric.rows:
            cell = cells[index]
            if cell is not None and cell.ahead is not None:
                ways[cell.ahead].append(f"{method} in {metric.label}")
                images.add(cell.images)
                samples[metric.samples] = None
    if not images:
        return f"{labels[index]} has no method and row in common with {labels[0]} to be tested."
    shared = f"{min(images)}" + (f" to {max(images)}" if len(images) > 1 else "")
    shared += f" {' or '.join(samples)}"
    parts = [
        f"{what}: {listed(found, 6)}"
        for what, found in (
            ("better", ways[1]),
            ("worse", ways[-1]),
            ("not separated", ways[0]),
        )
        if found
    ]
    return f"{labels[index]} against {labels[0]}, on {shared}: {'; '.join(parts)}."

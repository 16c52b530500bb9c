"""The tables of a report as data, one a metric; HTML, Markdown and LaTeX only write them down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_iba.report.naming import method_labels, metric_kind, metric_labels
from lit_iba.report.published import Published, lookup
from lit_iba.report.run_folder import MethodResult, MetricInfo, RunFolder, score_rows
from lit_iba.report.significance import SIGNIFICANCE, Comparison, compare_to_best

RULE = (
    "Bold: best mean, and separated from every other method by a two-sided paired Wilcoxon signed-rank test on the "
    f"per-image scores, Holm-corrected over the methods (adjusted p < {SIGNIFICANCE}). "
    "≈: not separated from the best mean."
)


@dataclass(frozen=True)
class MetricRow:
    """One method in one metric's table."""

    name: str
    label: str
    result: MethodResult
    bold: bool
    tied: bool  # the best, or not separated from it, where tests could be made
    adjusted_p: float | None
    published: Published | None
    same_network: bool
    seconds_per_image: float


@dataclass(frozen=True)
class MetricTable:
    """One metric, its methods from best to worst."""

    name: str
    label: str
    kind: str
    info: MetricInfo
    rows: list[MetricRow]
    comparison: Comparison
    tested: bool
    all_published: list[Published]

    @property
    def best(self) -> MetricRow | None:
        """The row of the best mean."""
        return next((row for row in self.rows if row.name == self.comparison.best), None)

    @property
    def remark(self) -> str:
        """What the tests say about the best method."""
        if self.best is None:
            return "No method has a score that is a number."
        if len(self.rows) == 1:
            return "The only method: nothing to compare it with."
        if not self.tested:
            return "Not tested: there are no per-image rows of this score."
        if self.comparison.clear:
            return "Separated from every other method."
        tied = [row.label for row in self.rows if row.tied]
        return f"Not separated from {_listed(tied)}." if tied else "Not every method could be tested against it."

    @property
    def verdict(self) -> str:
        """The best method and what the tests say about it."""
        return self.remark if self.best is None else f"{self.best.label} has the best mean. {self.remark}"


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def build_tables(run: RunFolder) -> list[MetricTable]:
    """The table of every metric, in the order of results.json."""
    labels = metric_labels(run)
    return [_build_table(run, name, labels[name]) for name in run.results]


def _build_table(run: RunFolder, metric: str, label: str) -> MetricTable:
    info, results = run.metrics[metric], run.results[metric]
    kind = metric_kind(metric, info)
    scores = {name: result.score for name, result in results.items()}
    comparison = compare_to_best(scores, score_rows(run, metric), info.better)
    names = method_labels(run.explainers)
    tested = bool(comparison.adjusted)
    rows = []
    for name in sorted(results, key=lambda name: _rank(scores[name], info.better)):
        explainer = run.explainers[name]
        number, same = published_for(run, metric, name)
        rows.append(
            MetricRow(
                name=name,
                label=names[name],
                result=results[name],
                bold=comparison.clear and name == comparison.best,
                tied=tested and name in comparison.adjusted and name not in comparison.separated,
                adjusted_p=comparison.adjusted.get(name),
                published=number,
                same_network=same,
                seconds_per_image=explainer.seconds_per_image,
            )
        )
    return MetricTable(metric, label, kind, info, rows, comparison, tested, lookup(kind, info.settings))


def _rank(score: float, better: str) -> tuple[bool, float]:
    return (math.isnan(score), score if better == "lower" else -score)


def published_for(run: RunFolder, metric: str, explainer: str) -> tuple[Published | None, bool]:
    """The printed number that belongs beside ours, and whether it was measured on the same network.

    Where the papers do not have this classifier, the first network that they print stands in, to be marked as such.
    """
    info, method = run.metrics[metric], run.explainers[explainer]
    kind = metric_kind(metric, info)
    network = str(run.classifier.get("model", ""))
    for given in (explainer, method.cls):
        here = lookup(kind, info.settings, network, given, method.settings)
        if here:
            return here[0], True
        elsewhere = lookup(kind, info.settings, None, given, method.settings)
        if elsewhere:
            return elsewhere[0], False
    return None, False


def overview_order(run: RunFolder, tables: list[MetricTable]) -> list[tuple[str, str]]:
    """Names and labels of all methods: best first by the first metric, then those that it does not have."""
    labels = method_labels(run.explainers)
    first = [row.name for row in tables[0].rows] if tables else []
    return [(name, labels[name]) for name in [*first, *(name for name in labels if name not in first)]]


def shortfalls(run: RunFolder) -> list[str]:
    """What a reader must know before trusting the numbers: images that are missing, scores that are no numbers."""
    notices: list[str] = []
    images, used, corrupt = (run.data.get(name) for name in ("images", "used", "corrupt"))
    if isinstance(images, int) and isinstance(used, int) and used < images:
        notices.append(f"{used} of {images} images were used.")
    if isinstance(corrupt, int) and corrupt > 0:
        notices.append(f"{corrupt} could not be decoded and {'are' if corrupt > 1 else 'is'} not in the numbers.")
    labels, metrics = method_labels(run.explainers), metric_labels(run)
    for metric, methods in run.results.items():
        broken = [labels[name] for name, result in methods.items() if not math.isfinite(result.score)]
        if broken:
            notices.append(f"{metrics[metric]}: no number for {_listed(broken)}.")
    return notices


def published_notes(table: MetricTable, run: RunFolder) -> list[str]:
    """Where the printed numbers beside ours come from, and when they are an orientation only."""
    here = [row.published for row in table.rows if row.published and row.same_network]
    elsewhere = [row.published for row in table.rows if row.published and not row.same_network]
    notes = []
    for numbers in (here, elsewhere):
        for origin in dict.fromkeys((item.citation, item.table, item.network_label, item.data) for item in numbers):
            notes.append(f"◇ Published: {', '.join(origin[:3])}. {origin[3]}.")
    if elsewhere:
        network = run.classifier.get("model") or "this classifier"
        notes.append(f"The papers print no numbers for {network}: ◇ shows another network, to orient, not to compare.")
    return list(dict.fromkeys(notes))

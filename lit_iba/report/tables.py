"""The tables of a report as data, one per metric; HTML, Markdown and LaTeX only write them down."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_iba.report.naming import (
    listed,
    method_labels,
    metric_kind,
    metric_labels,
    metric_samples,
)
from lit_iba.report.published import Published, canonical, lookup
from lit_iba.report.run_folder import MethodResult, MetricInfo, RunFolder, is_mean, score_rows
from lit_iba.report.significance import (
    CONFIDENCE,
    RESAMPLES,
    SIGNIFICANCE,
    Agreement,
    Comparison,
    Pair,
    compare_all,
    compare_to_best,
    mean_interval,
    rank_agreement,
)


def rule_note(samples: str) -> str:
    """What bold and ≈ mean in tables over images, reviews or trainings."""
    return (
        "Bold: best mean, and separated from every other method by a two-sided paired Wilcoxon"
        f" signed-rank test over the {samples}, Holm-corrected over all pairs of methods (adjusted"
        f" p < {SIGNIFICANCE}). ≈: not separated from the best mean."
    )


def interval_note(samples: str) -> str:
    """How intervals were made."""
    return (
        f"Interval: {CONFIDENCE:.0%} bootstrap interval of the mean (percentiles of"
        f" {RESAMPLES:,} resamples of the {samples}, as far out as Student's interval)."
    ).replace(",", " ")


@dataclass(frozen=True)
class MetricRow:
    """One method in one metric's table."""

    name: str
    label: str
    result: MethodResult
    interval: tuple[
        float, float
    ]  # bootstrap interval of the score; NaN where the rows do not make up the score
    values: list[float]  # the score of each image that has one
    bold: bool
    tied: bool  # the best, or not separated from it, where tests could be made
    adjusted_p: float | None
    published: Published | None
    same_network: bool
    seconds_per_image: float
    apart: bool = False  # whether its mean is over other images than another method's

    @property
    def counted(self) -> str:
        """``n = 12`` where the methods' means are over different images; empty elsewhere."""
        return f"n = {self.result.n}" if self.apart else ""


@dataclass(frozen=True)
class MetricTable:
    """One metric, its methods from best to worst.

    Example:
        >>> from lit_iba.report import build_tables, read_run
        >>> table = build_tables(read_run("runs/digits"))[0]
        >>> table.name, len(table.rows)
        ('bounding_box', 2)
    """

    name: str
    label: str
    kind: str
    samples: str  # what its scores are of: images, reviews or trainings
    info: MetricInfo
    rows: list[MetricRow]
    comparison: Comparison
    tested: bool
    pairs: Mapping[tuple[str, str], Pair]  # every method against every other one, best first
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
            return f"Not tested: the score of single {self.samples} is not there."
        if self.comparison.clear:
            return "Separated from every other method."
        tied = [row.label for row in self.rows if row.tied]
        return (
            f"Not separated from {listed(tied)}."
            if tied
            else "Not every method could be tested against it."
        )

    @property
    def verdict(self) -> str:
        """The best method and what the tests say about it."""
        return (
            self.remark
            if self.best is None
            else f"{self.best.label} has the best mean. {self.remark}"
        )


def build_tables(run: RunFolder) -> list[MetricTable]:
    """The table of every metric, in the order of results.json.

    Example:
        >>> from lit_iba.report import build_tables, read_run
        >>> [table.name for table in build_tables(read_run("runs/digits"))]
        ['bounding_box']
    """
    labels = metric_labels(run)
    return [_build_table(run, name, labels[name]) for name in run.results]


def _build_table(run: RunFolder, metric: str, label: str) -> MetricTable:
    info, results = run.metrics[metric], run.results[metric]
    kind = metric_kind(metric, info)
    scores = {name: result.score for name, result in results.items()}
    per_image = score_rows(run, metric)
    order = sorted(results, key=lambda name: _rank(scores[name], info.better))
    pairs = compare_all({name: per_image.get(name, {}) for name in order}, info.better)
    comparison = compare_to_best(scores, pairs, info.better)
    names = method_labels(run.explainers)
    tested = bool(comparison.adjusted)
    apart = _different_images(results, per_image)
    rows = []
    for name in order:
        explainer = run.explainers[name]
        number, same = published_for(run, metric, name)
        values = [value for value in per_image.get(name, {}).values() if math.isfinite(value)]
        rows.append(
            MetricRow(
                name=name,
                label=names[name],
                result=results[name],
                interval=_interval(values, scores[name]),
                values=values,
                bold=comparison.clear and name == comparison.best,
                tied=tested and name in comparison.adjusted and name not in comparison.separated,
                adjusted_p=comparison.adjusted.get(name),
                published=number,
                same_network=same,
                seconds_per_image=explainer.seconds_per_image,
                apart=apart,
            )
        )
    printed = lookup(kind, info.settings, quantity=None)
    samples = metric_samples(run, metric)
    return MetricTable(metric, label, kind, samples, info, rows, comparison, tested, pairs, printed)


def _different_images(
    results: Mapping[str, MethodResult], per_image: Mapping[str, Mapping[str, float]]
) -> bool:
    """Whether the means are over different images: by their number, or by the images with a score.

    A metric may have none for a single map, which the best mean then does not pay for.
    """
    counts = {result.n for result in results.values() if math.isfinite(result.score)}
    images = {
        frozenset(key for key, value in values.items() if math.isfinite(value))
        for name, values in per_image.items()
        if name in results and math.isfinite(results[name].score)
    }
    return len(counts) > 1 or len(images) > 1


def _interval(values: list[float], score: float) -> tuple[float, float]:
    return mean_interval(values) if is_mean(values, score) else (math.nan, math.nan)


def _rank(score: float, better: str) -> tuple[bool, float]:
    return (math.isnan(score), score if better == "lower" else -score)


def published_for(
    run: RunFolder, metric: str, explainer: str, quantity: str = "score"
) -> tuple[Published | None, bool]:
    """The printed number that belongs beside ours, and whether it was measured on the same network.

    ``quantity`` is the score or the name of one of the metric's further quantities. Where the
    papers do not have this classifier, the first network that they print stands in, to be marked as
    such.
    """
    info, method = run.metrics[metric], run.explainers[explainer]
    kind = metric_kind(metric, info)
    network = str(run.classifier.get("model", ""))
    given = method.cls or explainer  # the class says what ran, whatever the config calls it
    here = lookup(kind, info.settings, network, given, method.known, quantity)
    if here:
        return here[0], True
    elsewhere = lookup(kind, info.settings, None, given, method.known, quantity)
    return (elsewhere[0], False) if elsewhere else (None, False)


def overview_order(run: RunFolder, tables: list[MetricTable]) -> list[tuple[str, str]]:
    """Names and labels of all methods: best first by the first metric, then those that it does not
    have.
    """
    labels = method_labels(run.explainers)
    first = [row.name for row in tables[0].rows] if tables else []
    return [
        (name, labels[name]) for name in [*first, *(name for name in labels if name not in first)]
    ]


def samples_of(run: RunFolder, tables: Sequence[MetricTable]) -> str:
    """What the scores of all tables are of, as one word."""
    kinds = {table.samples for table in tables}
    return kinds.pop() if len(kinds) == 1 else run.samples


def shortfalls(run: RunFolder) -> list[str]:
    """What a reader must know before trusting the numbers: images that are missing, scores that are
    no numbers.
    """
    notices: list[str] = []
    images, used, corrupt = (run.data.get(name) for name in ("images", "used", "corrupt"))
    if isinstance(images, int) and isinstance(used, int) and used < images:
        notices.append(f"{used} of {images} {run.samples} were used.")
    if isinstance(corrupt, int) and corrupt > 0:
        notices.append(
            f"{corrupt} could not be decoded and {'are' if corrupt > 1 else 'is'} not in the"
            " numbers."
        )
    left_out = run.data.get("left_out")
    if isinstance(left_out, dict) and left_out.get("images"):
        notices.append(
            f"{left_out['images']} were left out because their target has a probability below"
            f" {left_out['min_probability']}; results.json names them."
        )
    labels, metrics = method_labels(run.explainers), metric_labels(run)
    for metric, methods in run.results.items():
        broken = [
            labels[name] for name, result in methods.items() if not math.isfinite(result.score)
        ]
        if broken:
            notices.append(f"{metrics[metric]}: no number for {listed(broken)}.")
    return notices


def published_notes(table: MetricTable, run: RunFolder) -> list[str]:
    """Where the printed numbers beside ours come from, and when they are an orientation only."""
    here = [row.published for row in table.rows if row.published and row.same_network]
    elsewhere = [row.published for row in table.rows if row.published and not row.same_network]
    notes = []
    for numbers in (here, elsewhere):
        for origin in dict.fromkeys(
            (item.citation, item.table, item.network_label, item.data) for item in numbers
        ):
            notes.append(f"◇ Published: {', '.join(origin[:3])}. {origin[3]}.")
    if elsewhere:
        network = run.classifier.get("model") or "this classifier"
        whose = "some of these methods on " if here else ""
        notes.append(
            f"The papers print no numbers for {whose}{network}: there ◇ shows another network, to"
            " orient, not to compare."
        )
    return list(dict.fromkeys(notes))


def agreement(table: MetricTable) -> Agreement | None:
    """How far our order of the methods is the published one on one network, each printed number
    taken once.
    """
    chosen: dict[str, MetricRow] = {}
    network = compared_network(table)
    for row in table.rows:
        if row.published is None or row.published.network_label != network:
            continue
        # Variants of a method share one printed number; the method under its own name goes before
        # them.
        own = canonical("explainers", row.name) == row.published.explainer
        if own or row.published.label not in chosen:
            chosen[row.published.label] = row
    ours = [row.result.score for row in chosen.values()]
    return rank_agreement(ours, [row.published.value for row in chosen.values() if row.published])


def compared_network(table: MetricTable) -> str:
    """The network whose published column ours is held against: our own, or else the one with the
    most numbers.
    """
    printed = [row for row in table.rows if row.published]
    rows = [row for row in printed if row.same_network] or printed
    counts = Counter(row.published.network_label for row in rows if row.published)
    return counts.most_common(1)[0][0] if counts else ""


def agreement_note(table: MetricTable) -> str:
    """The rank correlation in words; empty where too few methods have both numbers."""
    found = agreement(table)
    if found is None:
        return ""
    if math.isnan(found.spearman):
        return (
            "Rank correlation with the published column: none, one side is constant over"
            f" {found.methods} methods."
        )
    return (
        f"Rank correlation with the published column ({compared_network(table)}) over"
        f" {found.methods} methods: Spearman's ρ = {found.spearman:.2f}, Kendall's τ ="
        f" {found.kendall:.2f}."
    ).replace("= -", "= −")

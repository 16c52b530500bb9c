"""What a run says, in words: which method is best in what, and whether that is more than chance.

Every sentence follows from the tables: means over images, and the paired tests of
:mod:`lit_iba.report.significance`. A control is a map that knows nothing of the picture; what does
not beat the best of them has shown nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.metrics.registered import METRICS, metric_class
from lit_iba.report.naming import listed, method_labels, metric_labels, number, p_value
from lit_iba.report.published import all_published, canonical, unlike
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.significance import SIGNIFICANCE
from lit_iba.report.tables import MetricRow, MetricTable

FIXED = ("constant", "ramp", "centre")  # the same map for every image
CONTROLS = (*FIXED, "random")
OF_TEXTS = ("constant", "position", "random")
FEWEST_SEPARABLE = 6  # pairs; with fewer, no two-sided signed-rank test falls below 0.05
PAPERS_SIDE = 224  # the shorter side of the pictures that default lengths are for
SIDE_TOLERANCE = 0.2  # relative
CONTROL = "ssim_of_control"  # of the sanity check: the intact network with another seed
ALIKE = 0.9


@dataclass(frozen=True)
class Answer:
    """What a run says.

    Args:
        headline: Which method is best in what, over all metrics; empty where nothing was measured.
        verdicts: Of each metric with a score its number among the tables, and its sentence.
        cautions: What makes a comparison of these numbers unfair, a sentence each.
    """

    headline: str
    verdicts: list[tuple[int, str]]
    cautions: list[str]


def answer(run: RunFolder, tables: Sequence[MetricTable]) -> Answer:
    """The answer of a run.

    Example:
        >>> from lit_iba.report import build_tables, read_run
        >>> from lit_iba.report.answer import answer
        >>> run = read_run("runs/digits")
        >>> found = answer(run, build_tables(run))
        >>> found.headline
        'Saliency is best in Bounding box.'
    """
    judged = [(i, table) for i, table in enumerate(tables) if table.best is not None]
    return Answer(
        _headline([table for _, table in judged], run),
        [(i, _verdict(table, run)) for i, table in judged],
        cautions(run, tables),
    )


def is_control(run: RunFolder, name: str) -> bool:
    """Whether a method of the run knows nothing of the picture, or of the text, whatever the config
    calls it.
    """
    info = run.explainers[name]
    return info.control or canonical("explainers", info.cls) in CONTROLS


def _headline(tables: Iterable[MetricTable], run: RunFolder) -> str:
    won: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {}
    for table in tables:
        assert table.best is not None
        alone, sure, leading, unbeaten = won.setdefault(table.best.label, ([], [], [], []))
        control = is_control(run, table.best.name)
        where = unbeaten if control else sure if table.comparison.clear else leading
        (alone if len(table.rows) == 1 else where).append(table.label)
    said = []
    for method, (alone, sure, leading, unbeaten) in won.items():
        parts = [f"is the only method in {listed(alone, 9)}"] if alone else []
        parts += [f"is best in {listed(sure, 9)}"] if sure else []
        if leading:
            parts.append(
                f"has the best mean in {listed(leading, 9)}, not separated from all others"
            )
        if unbeaten:
            parts.append(f"a control, is beaten by no method in {listed(unbeaten, 9)}")
        said.append(f"{method}{',' if unbeaten else ''} {', and '.join(parts)}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _verdict(table: MetricTable, run: RunFolder) -> str:
    best = table.best
    assert best is not None
    scored = [row for row in table.rows if math.isfinite(row.result.score)]
    samples = table.samples if best.result.n != 1 else table.samples[:-1]
    images = f"{best.result.n:,} {samples}".replace(",", "\u202f")
    parts = [f"{best.label} has the best mean, {number(best.result.score)}, on {images}."]
    controls = [row for row in scored if is_control(run, row.name)]
    others = [row for row in scored if row is not best]
    if best in controls:
        parts = [
            f"{best.label}, a control that knows nothing of the {_what(run)}, has the best mean,"
            f" {number(best.result.score)}, on {images}."
        ]
        others = [row for row in others if row not in controls]
    against = {row.name: "the next" for row in others[:1]}
    if controls and best not in controls:
        both = controls[0].name in against
        against[controls[0].name] = "the next, a control" if both else "the best control"
    parts += [
        _separation(table, next(row for row in scored if row.name == name), what)
        for name, what in against.items()
    ]
    if controls:
        behind = [
            row.label
            for row in scored
            if row not in (best, *controls) and not _ahead(table, row, controls[0])
        ]
        if behind and controls[0] is not best:
            parts.append(f"Not shown to be better than {controls[0].label}: {listed(behind, 9)}.")
    return " ".join(parts)


def _what(run: RunFolder) -> str:
    return "picture" if run.sample == "image" else run.sample


def _separation(table: MetricTable, row: MetricRow, what: str) -> str:
    shown = f"{what}, {row.label} ({number(row.result.score)}"
    if row.adjusted_p is None:
        return f"It was not tested against {shown})."
    apart = row.name in table.comparison.separated
    p = p_value(row.adjusted_p)
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"It is {'' if apart else 'not '}separated from {shown}, {p})."


def _ahead(table: MetricTable, row: MetricRow, control: MetricRow) -> bool:
    """Whether the test of all pairs puts a method before a control."""
    pair, turned = (
        table.pairs.get(names) for names in ((row.name, control.name), (control.name, row.name))
    )
    found = pair or turned
    if found is None or found.adjusted >= SIGNIFICANCE:
        return False
    return (found.ahead if pair else -found.ahead) > 0


def cautions(run: RunFolder, tables: Sequence[MetricTable]) -> list[str]:
    """What makes a comparison of a run's numbers unfair, as far as its folder says.

    Example:
        >>> from lit_iba.report import build_tables, read_run
        >>> from lit_iba.report.answer import cautions
        >>> run = read_run("runs/digits")
        >>> [text for text in cautions(run, build_tables(run)) if "control" in text]
        []
    """
    found = [
        _fewer_than_asked(run),
        _wrongly_predicted(run),
        _other_lengths(run),
        _own_noise(run, tables),
        *_unlike_themselves(run, tables),
        *_fewer_points(tables),
        *_nothing_lost(tables),
        *_other_images(tables),
    ]
    if run.explainers and not any(is_control(run, name) for name in run.explainers):
        found.append(
            f"No control was run: nothing says what a map that knows nothing of the {_what(run)}"
            f" scores. Add {listed(CONTROLS if run.sample == 'image' else OF_TEXTS, 9)} to the"
            " explainers."
        )
    tested = [(min(t.comparison.pairs.values()), t.samples) for t in tables if t.comparison.pairs]
    few, samples = min(tested, default=(FEWEST_SEPARABLE, ""))
    if few < FEWEST_SEPARABLE:
        found.append(
            f"No paired test over {few} {samples} can separate methods; take {FEWEST_SEPARABLE} or"
            " more."
        )
    return [text for text in found if text]


def _fewer_than_asked(run: RunFolder) -> str:
    """Fewer samples than ``max_images``, though the data have more."""
    asked = (run.data.get("selection") or {}).get("max_images")
    there, used = run.data.get("images"), run.data.get("used")
    if not (isinstance(asked, int) and isinstance(there, int) and isinstance(used, int)):
        return ""
    if used >= asked or asked >= there:
        return ""
    return (
        f"{used} {run.samples} were judged of the {asked} asked for (max_images): a shard that has"
        " too few to be taken gives those, and no other makes up for it. Ask for more to have them"
        " all."
    )


def _wrongly_predicted(run: RunFolder) -> str:
    wrong, used = run.data.get("wrongly_predicted"), run.data.get("used")
    if not isinstance(wrong, int) or not isinstance(used, int) or not 0 < wrong <= used:
        return ""
    return (
        f"Of {wrong} of the {used} {run.samples} ({wrong / used:.0%}) the classifier predicts"
        " another class than the one that is explained. What can be removed from these matters"
        " little; min_probability leaves them out, and target: predicted explains what it says."
    )


def _other_lengths(run: RunFolder) -> str:
    size = run.data.get("size")
    if not isinstance(size, list) or not size or not all(isinstance(n, int) for n in size):
        return ""
    side = min(size)
    if abs(side - PAPERS_SIDE) <= SIDE_TOLERANCE * PAPERS_SIDE:
        return ""
    methods, metrics = method_labels(run.explainers), metric_labels(run)
    kept = [
        f"{methods[name]} ({settings})"
        for name, info in run.explainers.items()
        if (settings := _lengths(EXPLAINERS, explainer_class, info.cls, info.settings))
    ]
    kept += [
        f"{metrics[name]} ({settings})"
        for name, info in run.metrics.items()
        # A metric writes every setting that it uses: a blur that it does not make is not there.
        if (settings := _lengths(METRICS, metric_class, info.cls, info.settings, written=True))
    ]
    if not kept:
        return ""
    return (
        f"The shorter side of the pictures is {side} pixels, but these lengths are made for"
        f" {PAPERS_SIDE}: {listed(kept, 9)}. The order of methods can turn round with them; give"
        " them in proportion."
    )


def _lengths(
    registry: Mapping[str, str],
    find: Any,
    cls: str,
    settings: Mapping[str, Any],
    written: bool = False,
) -> str:
    """The lengths in pixels of a class of ours that are as they are by default, or, where all that
    are used are ``written``, are written so.
    """
    ours = cls in registry or cls.startswith("lit_iba.")
    kind = find(cls) if ours else None
    taken = inspect.signature(kind).parameters if kind is not None and kind.lengths else {}
    found = []
    for name in kind.lengths if kind is not None else ():
        default = taken[name].default if name in taken else inspect.Parameter.empty
        if default is inspect.Parameter.empty or (written and name not in settings):
            continue
        if settings.get(name, default) == default:
            found.append(f"{name} {default:g}")
    return ", ".join(found)


def _own_noise(run: RunFolder, tables: Sequence[MetricTable]) -> str:
    """Scores from which those of other images' maps are taken, beside maps that are always the
    same.
    """
    labels = method_labels(run.explainers)
    fixed = [
        labels[name]
        for name, info in run.explainers.items()
        if canonical("explainers", info.cls) in FIXED
    ]
    known = [t for t in tables if t.info.cls in METRICS or t.info.cls.startswith("lit_iba.")]
    taken = [t.label for t in known if getattr(metric_class(t.info.cls), "less_other_maps", False)]
    if not fixed or not taken:
        return ""
    return (
        f"In {listed(taken, 9)} the score of other images' maps is taken off, so that a map that is"
        f" the same for every image scores 0 by definition ({listed(fixed, 9)}). Compare it in e-"
        " itself: --pairs tests every quantity."
    )


def _unlike_themselves(run: RunFolder, tables: Sequence[MetricTable]) -> list[str]:
    """Methods whose maps change with the seed alone, in a metric that calls change good."""
    found = []
    for table in tables:
        alike = {
            row.label: row.result.extra[CONTROL]
            for row in table.rows
            if row.result.extra.get(CONTROL, 1.0) < ALIKE and not is_control(run, row.name)
        }
        if alike:
            named = [f"{number(value)} ({label})" for label, value in alike.items()]
            found.append(
                f"{table.label}: two seeds on the intact network give maps of similarity"
                f" {listed(named, 9)}. Below that, and not below 1, the network shows in the score."
            )
    return found


def _fewer_points(tables: Sequence[MetricTable]) -> list[str]:
    """Curves with fewer points than those of a paper that prints the same metric; and what else
    keeps the printed number away.
    """
    found = []
    for table in tables:
        given = table.info.settings
        rules = [
            item.settings
            for item in all_published()
            if item.metric == table.kind and isinstance(item.settings.get("points"), Mapping)
        ]
        if not rules or not isinstance(given.get("points"), int):
            continue
        nearest = min(rules, key=lambda rule: len(unlike(rule, table.kind, given)))
        others = unlike(nearest, table.kind, given)
        if "points" not in others:
            continue
        wanted = others.pop("points")["at_least"]
        also = [f"{name} {value}" for name, value in others.items()]
        found.append(
            f"{table.label}: the curve has {given['points']} points, fewer than the published one,"
            f" so that the number is no match for it; {wanted} or more are close enough"
            + (f", with {listed(also, 9)}." if also else ".")
        )
    return found


def _nothing_lost(tables: Sequence[MetricTable]) -> list[str]:
    """Degradation where the pictures are not clearly above what is left of them: no score."""
    found = []
    for table in tables:
        ends = [
            (extra["t1"], extra["degraded_probability"])
            for row in table.rows
            if table.kind == "degradation" and math.isnan(row.result.score)
            for extra in [row.result.extra]
            if {"t1", "degraded_probability"} <= extra.keys()
        ]
        if ends:
            t1, b = ends[0]
            found.append(
                f"{table.label} has no score: the mean probability of originals (t1 ="
                f" {number(t1)}) is not above that of fully degraded {table.samples} (b ="
                f" {number(b)}) by more than chance. Take more {table.samples}, or with"
                " min_probability those that the classifier recognises."
            )
    return found


def _other_images(tables: Sequence[MetricTable]) -> list[str]:
    """Means of methods over different images: the best one may have had the easier ones."""
    found = []
    for table in tables:
        counts = [row.result.n for row in table.rows if row.apart]
        if counts:
            many = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else counts[0]
            found.append(
                f"{table.label}: not every method has a score on the same {table.samples} (n ="
                f" {many}), so that their means are not of the same ones; the paired tests take"
                " those that both methods have."
            )
    return found

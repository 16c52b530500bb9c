"""Corrections, paired tests, intervals and rank correlations against SciPy, brute force and
hand-worked cases.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from lit_iba.report.naming import listed
from lit_iba.report.run_folder import is_mean, read_run, score_rows
from lit_iba.report.significance import (
    FEWEST_RESAMPLED,
    RESAMPLES,
    compare_all,
    compare_to_best,
    holm,
    mean_interval,
    rank_agreement,
    signed_rank_test,
)
from lit_iba.report.tables import agreement, agreement_note, build_tables
from lit_iba.varsal.uncertainty import correlation


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04; never falling: 0.03, 0.06, 0.06.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_signed_ranks_by_hand() -> None:
    # All six differences positive: of the 2^6 equally likely signs, two are as extreme.
    p_value, ranks = signed_rank_test(np.array([1.0, 2, 3, 4, 5, 6]), np.zeros(6))
    assert p_value == pytest.approx(2 / 64)
    assert ranks == 21.0
    # Differences 1, 2, 3, 4, -5: W- = 5. Subsets of {1..5} with a sum of at most 5: {}, 1, 2, 3, 4,
    # 5, 12, 13, 14, 23.
    p_value, ranks = signed_rank_test(np.array([1.0, 2, 3, 4, -5]), np.zeros(5))
    assert p_value == pytest.approx(2 * 10 / 32)
    assert ranks == 5.0


def test_pairs_without_a_difference_or_a_number_say_nothing() -> None:
    assert signed_rank_test(np.ones(9), np.ones(9)) == (1.0, 0.0)
    first, second = np.array([1.0, 2, 3, 4, 5, 6, 7, np.nan]), np.array([0.0, 0, 0, 0, 0, 0, 7, 1])
    assert signed_rank_test(first, second)[0] == pytest.approx(2 / 64)


def rows_of(**values: list[float]) -> dict[str, dict[str, float]]:
    return {name: {f"k{i}": value for i, value in enumerate(line)} for name, line in values.items()}


def test_best_is_clear_only_against_every_method() -> None:
    line = [float(i) for i in range(1, 9)]
    rows = rows_of(a=line, b=[0.1] * 8, c=[x + 0.01 * (-1) ** i for i, x in enumerate(line)])
    scores = {"a": 4.5, "b": 0.1, "c": 4.49}
    found = compare_to_best(scores, compare_all(rows, "higher"), "higher")
    assert found.best == "a"
    assert found.separated == {"b"}
    assert found.adjusted["b"] == pytest.approx(3 * 2 / 2**8)  # of three pairs
    assert not found.clear
    del rows["c"], scores["c"]
    assert compare_to_best(scores, compare_all(rows, "higher"), "higher").clear
    turned = compare_to_best(scores, compare_all(rows, "lower"), "lower")
    assert turned.best == "b"
    assert turned.clear
    assert turned.adjusted == {"a": pytest.approx(2 / 2**8)}


def test_equal_methods_are_separated_from_the_best_of_them_as_seldom_as_is_said() -> None:
    rng, times = np.random.default_rng(0), 0
    for _ in range(120):
        of_image = rng.normal(size=30)
        rows = rows_of(**{name: of_image + rng.normal(size=30) for name in "abcdefgh"})
        scores = {name: float(np.mean(list(values.values()))) for name, values in rows.items()}
        times += bool(compare_to_best(scores, compare_all(rows, "higher"), "higher").separated)
    assert times <= 12  # 6 are expected at the most


def test_a_test_that_points_the_other_way_does_not_separate() -> None:
    # One huge value makes a's mean the best, though b is larger on every other image.
    rows = rows_of(a=[1000.0] + [0.0] * 30, b=[0.0] + [1.0 + 0.01 * i for i in range(30)])
    found = compare_to_best({"a": 32.3, "b": 1.1}, compare_all(rows, "higher"), "higher")
    assert found.best == "a"
    assert found.adjusted["b"] < 0.05
    assert not found.clear


def test_methods_without_rows_or_numbers_are_not_tested() -> None:
    assert compare_to_best({"a": float("nan")}, {}, "higher").best is None
    found = compare_to_best({"a": 1.0, "b": 0.5}, {}, "higher")
    assert found.best == "a"
    assert not found.clear
    assert found.adjusted == {}


def test_per_image_score_is_found_by_name_or_by_its_mean(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(images=8))
    scores = score_rows(run, "bounding_box")
    assert np.mean(list(scores["grad_cam"].values())) == pytest.approx(
        run.results["bounding_box"]["grad_cam"].score
    )
    renamed = {
        name: {"inside": quantities["score"], "chance": dict.fromkeys(quantities["score"], 0.2)}
        for name, quantities in run.rows["bounding_box"].items()
    }
    assert score_rows(replace(run, rows={"bounding_box": renamed}), "bounding_box") == scores
    useless = {name: {"one": {"k": 8.0}, "two": {"k": 9.0}} for name in renamed}
    assert score_rows(replace(run, rows={"bounding_box": useless}), "bounding_box") == {}


@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(
    p_values: list[float], level: float
) -> None:
    # Holm's own words: from the smallest p on, reject while p < level / (tests that are left); then
    # stop.
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - rank) >= level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p < level} == rejected


@given(st.lists(st.integers(-40, 40).filter(bool), min_size=3, max_size=9, unique_by=abs))
def test_signed_rank_p_value_is_the_share_of_sign_patterns_as_extreme(
    differences: list[int],
) -> None:
    ranks = {size: i + 1 for i, size in enumerate(sorted(map(abs, differences)))}
    seen = sum(math.copysign(ranks[abs(d)], d) for d in differences)
    sums = [
        sum(np.multiply(signs, list(ranks.values())))
        for signs in itertools.product((-1, 1), repeat=len(ranks))
    ]
    share = sum(abs(total) >= abs(seen) for total in sums) / len(sums)
    p_value, ranked = signed_rank_test(
        np.array(differences, dtype=float), np.zeros(len(differences))
    )
    assert p_value == pytest.approx(share)
    assert ranked == seen


def test_all_pairs_are_scipys_tests_corrected_together() -> None:
    rng = np.random.default_rng(4)
    line = rng.normal(size=30)
    values = {
        "a": line,
        "b": line - 0.3 + 0.1 * rng.normal(size=30),
        "c": line + 0.2 * rng.normal(size=30),
    }
    rows = {
        name: {f"k{i}": float(v) for i, v in enumerate(column)} for name, column in values.items()
    }
    del rows["c"]["k0"]
    pairs = compare_all(rows, "higher")
    raw = [
        wilcoxon(values["a"], values["b"]).pvalue,
        wilcoxon(values["a"][1:], values["c"][1:]).pvalue,
        wilcoxon(values["b"][1:], values["c"][1:]).pvalue,
    ]
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.adjusted for pair in pairs.values()] == pytest.approx(holm(raw))
    assert [pair.images for pair in pairs.values()] == [30, 29, 29]
    assert pairs["a", "b"].ahead == 1
    assert compare_all(rows, "lower")["a", "b"].ahead == -1
    assert compare_all({"a": {"x": 1.0}, "b": {"y": 1.0}}, "higher") == {}


def test_interval_is_that_of_resampling_by_hand() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    rng = np.random.default_rng(77)
    means = [rng.choice(values, size=60).mean() for _ in range(20_000)]
    assert mean_interval(values.tolist()) == pytest.approx(
        np.percentile(means, (2.5, 97.5)), abs=0.03
    )
    assert mean_interval([*values, math.nan]) == mean_interval(
        values.tolist()
    )  # the same again, NaN left out
    assert mean_interval([2.0] * FEWEST_RESAMPLED) == (2.0, 2.0)
    for few in range(FEWEST_RESAMPLED):  # so short an interval would not be what it says
        assert all(map(math.isnan, mean_interval([float(i) for i in range(few)])))
    assert correlation(np.arange(5.0), np.arange(5.0) ** 2, "pearson").low is None
    found = correlation(np.arange(6.0), np.arange(6.0) ** 2, "pearson")
    assert found.low is not None


@pytest.mark.parametrize(("images", "least"), [(FEWEST_RESAMPLED, 0.89), (40, 0.91)])
def test_interval_holds_the_true_mean_about_as_often_as_it_says(images: int, least: float) -> None:
    rng = np.random.default_rng(0)
    held = [
        low <= 0.0 <= high
        for low, high in (mean_interval(rng.normal(size=images).tolist()) for _ in range(400))
    ]
    assert least <= np.mean(held) <= 0.98
    assert RESAMPLES >= 1000


def test_rank_agreement_by_counting_pairs() -> None:
    ours, published = [0.9, 0.5, 0.7, 0.1, float("nan")], [4.0, 2.0, 1.0, 0.0, 9.0]
    order = list(itertools.combinations(range(4), 2))
    tau = sum(np.sign((ours[i] - ours[j]) * (published[i] - published[j])) for i, j in order) / len(
        order
    )
    ranks = np.array([3, 1, 2, 0]), np.array([3, 2, 1, 0])
    rho = 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (4 * (16 - 1))
    found = rank_agreement(ours, published)
    assert found is not None
    assert (found.kendall, found.spearman, found.methods) == (
        pytest.approx(tau),
        pytest.approx(rho),
        4,
    )
    assert rank_agreement(ours[:3], published[:3]) is None
    constant = rank_agreement([1.0] * 4, published[:4])
    assert constant is not None
    assert math.isnan(constant.spearman)


def test_variants_of_a_method_count_its_printed_number_once(make_run: Callable[..., Path]) -> None:
    names = {
        "grad_cam": 0.5,
        "integrated_gradients": 0.4,
        "random": 0.0,
        "saliency": 0.3,
        "lrp_alpha1_beta0": 0.2,
    }
    as_printed = {"integrated_gradients": {"multiply_by_inputs": False, "channels": "max_abs"}}
    made = {name: (quality, as_printed.get(name, {}), 0.1) for name, quality in names.items()}
    run = read_run(make_run(explainers=made))
    doubled = dict(run.explainers) | {"ig_again": run.explainers["integrated_gradients"]}
    results = {m: {**methods, "ig_again": methods["random"]} for m, methods in run.results.items()}
    table = build_tables(replace(run, explainers=doubled, results=results))[0]
    assert next(row for row in table.rows if row.name == "ig_again").published is not None
    found = agreement(table)
    assert found is not None
    assert found.methods == 4  # LRP is printed for VGG-16 only, and integrated gradients once
    assert found.spearman == pytest.approx(1.0)
    assert "over 4 methods: Spearman's ρ = 1.00" in agreement_note(table)


def test_no_interval_where_rows_do_not_make_up_the_score(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(images=8))
    table = build_tables(run)[0]
    row = table.rows[0]
    assert row.interval[0] < row.result.score < row.interval[1]
    medians = {
        name: replace(r, score=r.score + 0.01) for name, r in run.results["degradation_8"].items()
    }
    other = build_tables(replace(run, results={"degradation_8": medians}))[0]
    assert all(math.isnan(end) for row in other.rows for end in row.interval)


def test_what_is_said_of_the_best_method(make_run: Callable[..., Path]) -> None:
    alone = build_tables(read_run(make_run(explainers={"grad_cam": (0.5, {}, 0.1)})))[0]
    assert alone.best is alone.rows[0]
    assert alone.remark == "The only method: nothing to compare it with."
    several = build_tables(read_run(make_run()))[0]
    assert several.best is not None
    assert several.best.result.score == max(row.result.score for row in several.rows)
    assert "only method" not in several.remark
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef")) == "a, b, c and 3 others"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rows_make_up_a_score_at_any_scale(scale: float) -> None:
    values = [scale * value for value in (1.0, 2.0, 4.0, 8.0)]
    assert is_mean([*values, math.nan], 3.75 * scale)
    assert is_mean(values, float(np.float32(3.75 * scale)))
    for other in (3.0, 3.76, 3.8):  # a median, and what is a little off
        assert not is_mean(values, other * scale)
    assert is_mean([scale, scale], scale)
    assert not is_mean([], math.nan)


def test_a_median_of_small_numbers_gets_no_interval(make_run: Callable[..., Path]) -> None:
    run = make_run()
    document = json.loads((run / "results.json").read_text())
    lines = (run / "rows.csv").read_text().splitlines()
    small = [
        f"{line.rpartition(',')[0]},{1e-5 * float(line.rpartition(',')[2]) ** 2}"
        if ",bounding_box," in line
        else line
        for line in lines
    ]
    (run / "rows.csv").write_text("\n".join(small) + "\n")
    for result in document["results"]["bounding_box"].values():
        result["score"] *= 1e-5
    (run / "results.json").write_text(json.dumps(document))
    (table,) = [t for t in build_tables(read_run(run)) if t.name == "bounding_box"]
    assert all(math.isnan(end) for row in table.rows for end in row.interval)

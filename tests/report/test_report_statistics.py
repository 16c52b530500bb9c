"""Holm's correction and the paired tests against hand-worked cases, and the choice of the per-image score."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_iba.report.run_folder import read_run, score_rows
from lit_iba.report.significance import compare_to_best, holm, signed_rank_test


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
    # Differences 1, 2, 3, 4, -5: W- = 5. Subsets of {1..5} with a sum of at most 5: {}, 1, 2, 3, 4, 5, 12, 13, 14, 23.
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
    found = compare_to_best(scores, rows, "higher")
    assert found.best == "a"
    assert found.separated == {"b"}
    assert found.adjusted["b"] == pytest.approx(2 * 2 / 2**8)
    assert not found.clear
    assert compare_to_best({"a": 4.5, "b": 0.1}, rows, "higher").clear
    assert compare_to_best({"a": 4.5, "b": 0.1}, rows, "lower").best == "b"
    assert compare_to_best({"a": 4.5, "b": 0.1}, rows, "lower").clear


def test_a_test_that_points_the_other_way_does_not_separate() -> None:
    # One huge value makes a's mean the best, though b is larger on every other image.
    rows = rows_of(a=[1000.0] + [0.0] * 30, b=[0.0] + [1.0 + 0.01 * i for i in range(30)])
    found = compare_to_best({"a": 32.3, "b": 1.1}, rows, "higher")
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
    assert np.mean(list(scores["grad_cam"].values())) == pytest.approx(run.results["bounding_box"]["grad_cam"].score)
    renamed = {
        name: {"inside": quantities["score"], "chance": dict.fromkeys(quantities["score"], 0.2)}
        for name, quantities in run.rows["bounding_box"].items()
    }
    assert score_rows(replace(run, rows={"bounding_box": renamed}), "bounding_box") == scores
    useless = {name: {"one": {"k": 8.0}, "two": {"k": 9.0}} for name in renamed}
    assert score_rows(replace(run, rows={"bounding_box": useless}), "bounding_box") == {}

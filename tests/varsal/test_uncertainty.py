"""Correlation, calibration and abstaining against their definitions, spelled out as loops."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr

from lit_iba.varsal.uncertainty import (
    LEVELS,
    abstain_curve,
    band_ranks,
    border_correlation,
    correlation,
    coverage,
    doubt,
    mean_deviation,
)
from lit_iba.varsal.uncertainty_plots import MEASURES, MOST_POINTS, relation_figure


def test_uncertainty_of_a_map_is_free_of_its_scale_once_standardised() -> None:
    mean, deviation = torch.randn(3, 8, 6), torch.rand(3, 8, 6)
    level, standardized = mean_deviation(mean, deviation)
    assert level[1] == pytest.approx(float(deviation[1].mean()))
    assert standardized[1] == pytest.approx(
        float(deviation[1].mean()) / float(np.std(mean[1].numpy()))
    )
    torch.testing.assert_close(mean_deviation(5 * mean + 1, 5 * deviation)[1], standardized)


def test_correlation_is_scipy_s_and_its_interval_draws_images() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 1)) + 0.1 * generator.normal(
        size=(60, 5)
    )  # five nearly equal conditions of an image
    y = x + generator.normal(size=(60, 1))
    for kind, peer in (("pearson", pearsonr), ("spearman", spearmanr)):
        found = correlation(x, y, kind)
        assert found.value == pytest.approx(float(peer(x.ravel(), y.ravel()).statistic))
        low, high = zip(*(_bootstrap(x, y, peer, seed) for seed in range(2)), strict=True)
        assert found.low == pytest.approx(np.mean(low), abs=0.03)
        assert found.high == pytest.approx(np.mean(high), abs=0.03)
        # Were conditions drawn as if they were images, the interval would be less than half as
        # wide.
        rows = correlation(x.reshape(-1, 1), y.reshape(-1, 1), kind)
        assert rows.high - rows.low < 0.7 * (found.high - found.low)


def _bootstrap(x: np.ndarray, y: np.ndarray, peer: object, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(100 + seed)
    drawn = [generator.integers(len(x), size=len(x)) for _ in range(500)]
    values = [peer(x[rows].ravel(), y[rows].ravel()).statistic for rows in drawn]  # type: ignore[operator]
    return tuple(np.percentile(values, [2.5, 97.5]))


def test_correlation_of_what_does_not_vary_is_none() -> None:
    assert correlation(np.ones(9), np.arange(9.0), "pearson").value is None
    assert correlation(np.arange(3.0), np.arange(3.0), "spearman").value is None


def test_partial_correlation_is_that_of_the_residuals() -> None:
    generator = np.random.default_rng(0)
    given = generator.normal(size=80)
    x, y = given + 0.5 * generator.normal(size=(2, 80))
    y += 0.3 * x
    for kind, scale in (("pearson", np.asarray), ("spearman", rankdata)):
        a, b = (
            np.polynomial.Polynomial.fit(scale(given), scale(side), 1)(scale(given)) - scale(side)
            for side in (x, y)
        )
        found = correlation(x, y, kind, given=given)
        assert found.value == pytest.approx(float(pearsonr(a, b).statistic))
        assert found.low < found.value < found.high
    # Nothing is left of what follows from the given alone.
    z = given + 0.5 * generator.normal(size=80)
    assert correlation(given, z, "spearman").value > 0.7
    alone = correlation(given + 0.5 * generator.normal(size=80), z, "spearman", given=given)
    assert alone.low < 0 < alone.high
    assert correlation(x, y, "pearson", given=np.ones(80)).value is None


def test_doubt_of_a_prediction() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    entropy, least = doubt(p.log())
    assert entropy.tolist() == pytest.approx([1.5 * np.log(2), 0])
    assert least.tolist() == pytest.approx([0.5, 0])


def test_a_ring_around_the_object_is_a_border() -> None:
    far = torch.linspace(-1, 1, 41)[:, None].hypot(torch.linspace(-1, 1, 41))
    mean = torch.sigmoid(-20 * (far - 0.5))
    ring, ramp = torch.exp(-20 * (far - 0.5).abs()), torch.linspace(0, 1, 41).expand(41, 41)
    found = border_correlation(torch.stack([mean] * 3), torch.stack([ring, ramp, -ring]))
    assert found[0] > 0.9
    assert found[1].abs() < 0.1
    step = torch.sigmoid(10 * torch.linspace(-1, 1, 41)).expand(41, 41)  # a vertical border
    beside = (step * (1 - step)).contiguous()
    assert border_correlation(step[None], beside[None]) > 0.9
    assert border_correlation(step.T[None], beside.T[None]) > 0.9
    assert found[2] == pytest.approx(-float(found[0]))


def test_outcomes_of_the_same_distribution_are_covered_at_every_level() -> None:
    outcomes = np.random.default_rng(0).gamma(2, size=(20_000, 20))
    ranks = band_ranks(outcomes[:, :-1], outcomes[:, -1])
    assert coverage(ranks) == pytest.approx(LEVELS, abs=0.01)


def test_coverage_is_the_share_inside_the_central_band() -> None:
    outcomes = np.tile(
        np.arange(1.0, 20.0), (4, 1)
    )  # 1 to 19: the band of 10 % lies between 9 and 11
    tested = np.array([10.0, 9.5, 0.0, 30.0])
    assert band_ranks(outcomes, tested) == pytest.approx([0.5, 0.475, 0.025, 0.975])
    assert coverage(band_ranks(outcomes, tested), [0.04, 0.1, 0.9, 0.95]) == [0.25, 0.5, 0.5, 1.0]
    same = np.zeros((2, 19))
    assert band_ranks(same, np.zeros(2)).tolist() == [0.5, 0.5]


def test_abstain_curve_is_the_mean_error_of_the_least_uncertain() -> None:
    generator = np.random.default_rng(1)
    error, uncertainty = generator.random(50), generator.random(50)
    curve = abstain_curve(error, uncertainty)
    for n in (1, 7, 50):
        kept = sorted(range(50), key=lambda i: uncertainty[i])[:n]
        assert curve.kept[n - 1] == pytest.approx(n / 50)
        assert curve.error[n - 1] == pytest.approx(np.mean(error[kept]))
        assert curve.oracle[n - 1] == pytest.approx(np.mean(sorted(error)[:n]))
    assert curve.random == pytest.approx(error.mean())
    assert curve.area == pytest.approx(np.mean(curve.error))


def test_abstaining_gains_all_nothing_or_less_than_nothing() -> None:
    error = np.random.default_rng(2).random(200)
    assert abstain_curve(error, np.exp(error)).gain == pytest.approx(1)
    assert abstain_curve(error, np.ones(200)).gain == pytest.approx(
        0
    )  # ties are withheld in any order
    assert abstain_curve(error, -error).gain < -0.5
    assert abstain_curve(np.ones(5), np.arange(5.0)).gain is None


@pytest.mark.parametrize("images", [30, 3000])
def test_the_scatter_plot_shows_every_condition(images: int) -> None:
    """Rows go image by image through 31 conditions, of which every 31st is the clean image."""
    rows = [
        {"severity": severity, "deviation": 0.1, "standardized_deviation": 0.2, "error": 0.3}
        for _ in range(images)
        for severity in (0, *(s for s in range(1, 6) for _ in range(6)))
    ]
    unknown = {"spearman": {"value": None}}
    results = {"all": {"correlation": dict.fromkeys(MEASURES, unknown)}}
    drawn = {
        str(points.get_label()): len(points.get_offsets())
        for points in relation_figure(results, rows).axes[0].collections
    }
    assert drawn["corrupted"] + drawn["clean"] == min(len(rows), MOST_POINTS)
    share = drawn["clean"] / (drawn["corrupted"] + drawn["clean"])
    assert share == pytest.approx(1 / 31, abs=0.02)

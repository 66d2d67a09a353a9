"""Intervals against enumeration, scipy and simulation; none of these shares code with what is tested."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.statistics import (
    bootstrap_interval,
    noise_of_means,
    noise_of_pairs,
    noise_of_wins,
    seed_widening,
    student_interval,
    t_quantile,
    wins,
)

stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle: pip install 'mx-plugin[test]'")


@pytest.mark.parametrize("df", [1, 2, 3, 7, 30, 300])
@pytest.mark.parametrize("p", [0.025, 0.5, 0.8, 0.975, 0.999])
def test_students_quantiles_are_scipys(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-8)


def test_the_bootstrap_over_prompts_is_scipys() -> None:
    scores = np.random.default_rng(0).normal(size=60)
    found = bootstrap_interval(scores)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_bootstrap_over_seeds_and_prompts_is_the_enumeration_of_all_redrawn_tables() -> None:
    table = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 9.0]])
    widen = float(np.sqrt(2) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)) - 1
    means = []
    for rows in product(range(2), repeat=2):
        for columns in product(range(3), repeat=3):
            redrawn = table[np.ix_(rows, columns)]
            of_seed = table[list(rows)].mean() - table.mean()
            means.append(redrawn.mean() + widen * of_seed)
    low, high = np.quantile(means, [0.025, 0.975])
    found = bootstrap_interval(table, draws=40_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.35)
    assert low < -10 and high > 15  # two seeds that differ say little about others


@pytest.mark.parametrize("between_seeds", [1.0, 0.2, 0.0])
def test_intervals_of_three_seeds_hold_the_truth_at_least_as_often_as_they_say(between_seeds: float) -> None:
    rng = np.random.default_rng(3)
    hits, trials = 0, 200
    for trial in range(trials):
        table = rng.normal(0, between_seeds, (3, 1)) + rng.normal(0, 1.0, 40) + rng.normal(0, 1.0, (3, 40))
        found = bootstrap_interval(table, draws=500, seed=trial)
        hits += found.low <= 0 <= found.high
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_an_interval_that_drew_prompts_only_would_miss_the_truth_when_seeds_differ() -> None:
    """The same simulation finds the fault that the seeds' part of the bootstrap is there to prevent."""
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(100):
        table = rng.normal(0, 1.0, (3, 1)) + rng.normal(0, 1.0, 40) + rng.normal(0, 1.0, (3, 40))
        found = bootstrap_interval(table.mean(0), draws=500, seed=trial)
        hits += found.low <= 0 <= found.high
    assert hits < 60


def test_the_same_scores_give_the_same_interval() -> None:
    table = np.random.default_rng(1).normal(size=(3, 20))
    assert bootstrap_interval(table) == bootstrap_interval(table.copy())


@pytest.mark.parametrize("bad", [np.zeros((3, 0)), np.array([[1.0, np.nan]])])
def test_no_scores_and_scores_that_are_no_numbers_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ExperimentError, match=r"no scores|seed 0, prompt 1 is nan"):
        bootstrap_interval(bad)


def test_students_interval_is_scipys() -> None:
    values = np.array([3.0, 4.5, 3.9])
    found = student_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert student_interval(values[:1]).high == np.inf


def test_one_seed_is_not_widened_and_many_hardly() -> None:
    assert seed_widening(1) == 1.0
    assert 1.0 < seed_widening(50) < 1.05 < seed_widening(3)


def test_wins_count_ties_as_half() -> None:
    assert wins(np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 1.0, 1.0]])).tolist() == [[1.0, 0.5, 0.0]]
    with pytest.raises(ExperimentError, match="cannot be paired"):
        wins(np.zeros((2, 3)), np.zeros((3, 3)))


def test_the_noise_floor_is_exceeded_by_chance_in_about_five_percent() -> None:
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(2000):
        first, second = rng.normal(size=(2, 3))
        exceeded += abs(first.mean() - second.mean()) > noise_of_means(first).floor
    # Student's t with the spread of one of the two groups: exact, when that group estimates it.
    assert exceeded / 2000 == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("seed_spread", [0.0, 5.0])
def test_the_floor_of_the_baseline_trained_twice_holds_whatever_seeds_have_in_common(seed_spread: float) -> None:
    rng = np.random.default_rng(2)
    exceeded = 0
    for _ in range(2000):
        common = rng.normal(0, seed_spread, 3)  # the same data: shared by all runs of a seed
        baseline, twin, unchanged = common + rng.normal(size=(3, 3))
        exceeded += abs((unchanged - baseline).mean()) > noise_of_pairs(twin - baseline).floor
    # The baseline stands in both differences, so that a large floor and a large difference come together.
    assert exceeded / 2000 == pytest.approx(0.05, abs=0.025)


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five() -> None:
    spread, seeds = 1.0, 12
    rng = np.random.default_rng(1)
    detectable = (t_quantile(0.975, seeds - 1) + t_quantile(0.8, seeds - 1)) * spread * np.sqrt(2 / seeds)
    first, second = rng.normal(0, spread, (2000, seeds)), rng.normal(detectable, spread, (2000, seeds))
    assert np.mean(stats.ttest_ind(second, first, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.05)
    sizes = [noise_of_means(rng.normal(0, spread, seeds)).detectable for _ in range(200)]
    assert np.mean(sizes) == pytest.approx(detectable, rel=0.1)


def test_noise_of_win_rates_is_zero_for_identical_seeds_and_unknown_for_one() -> None:
    assert noise_of_wins(np.ones((3, 5))).floor == 0.0
    assert noise_of_wins(np.ones((1, 5))).floor is None
    assert noise_of_means(np.array([1.0])).detectable is None
    table = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert noise_of_wins(table).largest == pytest.approx(0.125)  # (2 wins, 1 tie, 1 loss) / 4 - 1/2

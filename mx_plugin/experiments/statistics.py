"""Intervals for scores of several seeds on the same prompts, by a bootstrap over both.

A table of scores has one row a seed and one column a prompt. Both are drawn from something larger - other seeds would
have trained other models, other prompts would have been answered otherwise - and both draws count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .errors import ExperimentError

Scores = NDArray[np.float64]
"""(seeds, prompts), or (prompts,) for one seed."""

CONFIDENCE = 0.95
DRAWS = 10_000
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided confidence interval, in the scores' unit.

    ``seeds`` is how many the bootstrap drew from; with 1 it draws prompts only, and the interval says nothing about
    other seeds.
    """

    value: float
    low: float
    high: float
    seeds: int = 1

    def clipped(self, lowest: float, highest: float) -> Interval:
        """The same, within bounds that the quantity cannot leave."""
        return Interval(self.value, max(self.low, lowest), min(self.high, highest), self.seeds)

    def to_dict(self) -> dict[str, float]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap_interval(
    scores: Scores, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Percentile interval of the mean over seeds and prompts.

    Each draw takes rows with replacement and, independently, columns with replacement (Owen, The pigeonhole
    bootstrap, Annals of Applied Statistics 1(2), 2007): the prompts are the same for every seed, so they are drawn
    once for all. Few seeds make a percentile interval too narrow; what the drawn seeds add is therefore widened by
    sqrt(S / (S - 1)) t(S - 1) / z, which makes the seeds' part as wide as Student's interval (Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015, section 3.2, there as adjusted
    percentiles).

    Args:
        scores: finite numbers.
        seed: of the draws: the same table gives the same interval.

    Raises:
        ExperimentError: an empty table, or a score that is not finite.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if table.ndim != 2 or table.size == 0:
        raise ExperimentError(f"no scores to compare: a table of {table.shape} seeds and prompts")
    if not np.isfinite(table).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ExperimentError(f"score of seed {row}, prompt {column} is {table[row, column]}, not a number")
    means = _bootstrap_means(table, confidence, draws, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    value = float(table.mean())
    return Interval(value, min(float(low), value), max(float(high), value), len(table))


def _bootstrap_means(table: Scores, confidence: float, draws: int, seed: int) -> Scores:
    """(draws,) means of redrawn tables, the seeds' main effect widened."""
    rows, columns = _weights(*table.shape, draws, seed)
    of_seed = table.mean(1) - table.mean()
    widen = seed_widening(len(table), confidence) - 1.0
    means: Scores = (rows * (columns @ table.T)).sum(1) + widen * (rows @ of_seed)
    return means


@lru_cache(maxsize=2)
def _weights(seeds: int, prompts: int, draws: int, seed: int) -> tuple[Scores, Scores]:
    """How often each draw takes every seed and every prompt, as shares: (draws, seeds) and (draws, prompts).

    The same for all tables of one size, so that a comparison's many intervals share their draws.
    """
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    chosen = rng.integers(0, prompts, (draws, prompts)) + prompts * np.arange(draws)[:, None]
    columns = np.bincount(chosen.ravel(), minlength=draws * prompts).reshape(draws, prompts) / prompts
    return rows, columns


def seed_widening(seeds: int, confidence: float = CONFIDENCE) -> float:
    """Factor by which the spread of redrawn seed means is widened; 1 for one seed, which is not redrawn."""
    if seeds < 2:
        return 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return float(np.sqrt(seeds / (seeds - 1)) * t_quantile(0.5 + confidence / 2, seeds - 1) / z)


def student_interval(values: Scores, *, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean of one number a seed; for quantities without a value per prompt.

    One seed has no interval: it is unbounded.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return Interval(mean, -np.inf, np.inf, count)
    half = t_quantile(0.5 + confidence / 2, count - 1) * float(numbers.std(ddof=1)) / np.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


# ---------------------------------------------------------------------------- wins


def wins(candidate: Scores, baseline: Scores) -> Scores:
    """1 where the candidate scores higher on that seed and prompt, 1/2 for a tie, 0 where lower; same shape."""
    candidate, baseline = np.asarray(candidate, np.float64), np.asarray(baseline, np.float64)
    if candidate.shape != baseline.shape:
        raise ExperimentError(f"scores of {candidate.shape} and {baseline.shape} (seeds, prompts) cannot be paired")
    won: Scores = (candidate > baseline) + 0.5 * (candidate == baseline)
    return won


# ---------------------------------------------------------------------------- noise


@dataclass(frozen=True)
class Noise:
    """How far a mean score moves by itself: the baseline against itself.

    ``floor``: the difference between two means of ``seeds`` runs that chance exceeds in 5% of cases, Student's.
    ``detectable``: the difference that a comparison of such means finds with a power of 80%.
    ``largest``: the largest difference between two single runs that were compared. None with fewer than two seeds.
    """

    seeds: int
    floor: float | None
    detectable: float | None
    largest: float | None


def noise_of_means(means: Scores, *, confidence: float = CONFIDENCE, power: float = POWER) -> Noise:
    """From one mean score a seed, all of the baseline.

    With s their standard deviation and df = S - 1, the difference of two such means has the standard error
    e = s sqrt(2 / S); floor = t(confidence) e, detectable = (t(confidence) + t(power)) e.
    """
    means = np.asarray(means, np.float64)
    count = len(means)
    if count < 2:
        return Noise(count, None, None, None)
    error = float(means.std(ddof=1)) * np.sqrt(2 / count)
    return _noise(count, error, float(np.ptp(means)), confidence, power)


def noise_of_wins(table: Scores, *, confidence: float = CONFIDENCE, power: float = POWER) -> Noise:
    """The same for win rates: how far that of one baseline run against another lies from one half.

    Args:
        table: (seeds, prompts), the baseline's scores.
    """
    table = np.atleast_2d(np.asarray(table, np.float64))
    count = len(table)
    if count < 2:
        return Noise(count, None, None, None)
    offsets = [float(wins(table[i], table[j]).mean()) - 0.5 for i in range(count) for j in range(i)]
    # A win rate over S pairs of seeds is the mean of S such offsets, whose mean is 0 by symmetry.
    error = float(np.sqrt(np.mean(np.square(offsets)) / count))
    return _noise(count, error, float(np.abs(offsets).max()), confidence, power)


def noise_of_pairs(differences: Scores, *, confidence: float = CONFIDENCE, power: float = POWER) -> Noise:
    """From the baseline trained twice a seed, on the same data with other draws of the sampler: the control ``aa``.

    Its differences are what a policy's, paired by seed, are when the policy changes nothing. Their mean is 0 by
    symmetry, so that no degree of freedom goes into it: with r their root mean square and df = S, the standard error
    of a mean over S seeds is e = r / sqrt(S); floor and detectable as in ``noise_of_means``.

    Args:
        differences: one a seed; of mean scores, or of win rates from one half.
    """
    differences = np.asarray(differences, np.float64)
    count = len(differences)
    if count < 2:
        return Noise(count, None, None, None)
    error = float(np.sqrt(np.mean(np.square(differences)) / count))
    return _noise(count, error, float(np.abs(differences).max()), confidence, power, count)


def _noise(count: int, error: float, largest: float, confidence: float, power: float, df: int | None = None) -> Noise:
    df = count - 1 if df is None else df
    t = t_quantile(0.5 + confidence / 2, df)
    return Noise(count, t * error, (t + t_quantile(power, df)) * error, largest)


# ---------------------------------------------------------------------------- Student's t


@cache
def t_quantile(p: float, df: int) -> float:
    """The p-quantile of Student's t with ``df`` degrees of freedom, to about 1e-10.

    With t = sqrt(df) tan(a) the density is proportional to cos(a)^(df - 1), which is integrated by Gauss and
    inverted by halving: scipy is not needed for three lines of a report.
    """
    if not 0.0 < p < 1.0 or df < 1:
        raise ValueError(f"t_quantile({p}, {df}): p must lie in (0, 1) and df be at least 1")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    nodes, weights = np.polynomial.legendre.leggauss(64)

    def integral(end: float) -> float:
        return float(end / 2 * (weights * np.cos(end / 2 * (nodes + 1)) ** (df - 1)).sum())

    wanted = (2 * p - 1) * integral(np.pi / 2)
    low, high = 0.0, np.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if integral(middle) < wanted else (low, middle)
    return float(np.sqrt(df) * np.tan(low))

"""The verdict on differences whose answer is known."""

from __future__ import annotations

import pytest

from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.statistics import Interval, Noise
from mx_plugin.experiments.verdict import Improvement, Margin, decide, improvement

NOISE = Noise(3, 0.1, 0.15, 0.05)
TRAINED = Improvement(Interval(0.5, 0.4, 0.6, 3), NOISE, True, "A improved")
MARGIN = Margin("win_rate", 0.05)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.10, "better"),
        (-0.04, 0.06, "non-inferior"),
        (-0.04, -0.01, "non-inferior"),
        (-0.20, -0.06, "worse"),
        (-0.20, -0.01, "worse"),
        (-0.06, 0.06, "inconclusive"),
        (-0.05, 0.06, "inconclusive"),  # exactly the margin is not within it
        (0.0, 0.1, "non-inferior"),
    ],
)
def test_verdicts(low: float, high: float, word: str) -> None:
    found = decide(Interval((low + high) / 2, low, high, 3), MARGIN, TRAINED, ("D", "A"))
    assert found.word == word
    assert "against A" in found.why


def test_without_a_margin_nothing_is_non_inferior() -> None:
    found = decide(Interval(0.0, -0.001, 0.001, 3), None, TRAINED, ("D", "A"))
    assert found.word == "inconclusive" and "no margin was declared" in found.why


def test_a_baseline_that_learned_nothing_makes_every_comparison_inconclusive() -> None:
    idle = improvement(Interval(0.05, 0.01, 0.09, 3), NOISE, "A")
    assert not idle.counts
    for low, high in ((0.1, 0.2), (-0.5, -0.4)):
        found = decide(Interval((low + high) / 2, low, high, 3), MARGIN, idle, ("D", "A"))
        assert found.word == "inconclusive" and "not beyond the noise" in found.why


@pytest.mark.parametrize(
    ("interval", "counts"),
    [((0.3, 0.2, 0.4), True), ((0.3, -0.1, 0.7), False), ((0.09, 0.05, 0.13), False), ((-0.4, -0.5, -0.3), False)],
)
def test_an_improvement_lies_above_zero_and_beyond_the_floor(interval: tuple[float, ...], counts: bool) -> None:
    assert improvement(Interval(*interval, 3), NOISE, "A").counts is counts  # type: ignore[arg-type]


def test_one_seed_proves_nothing() -> None:
    alone = improvement(Interval(0.5, 0.4, 0.6, 1), Noise(1, None, None, None), "A")
    assert not alone.counts and "at least two" in alone.why
    assert decide(Interval(0.5, 0.4, 0.6, 1), MARGIN, TRAINED, ("D", "A")).word == "inconclusive"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"metric": "winrate", "value": 0.05}, "did you mean 'win_rate'"),
        ({"metric": "judge", "value": 0}, "above 0"),
        ({"metric": "judge", "value": True}, "above 0"),
        ({"metric": "judge"}, "lacks value"),
    ],
)
def test_a_margin_that_means_nothing_is_refused(declared: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        Margin.read(declared)


def test_no_margin_is_no_error() -> None:
    assert Margin.read({}) is None

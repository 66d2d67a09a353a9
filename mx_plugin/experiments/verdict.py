"""What a comparison may be called: better, non-inferior, worse, or inconclusive, and why, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import nearest
from .errors import ExperimentError
from .statistics import Interval, Noise

BETTER, NON_INFERIOR, WORSE, INCONCLUSIVE = "better", "non-inferior", "worse", "inconclusive"
VERDICTS = (BETTER, NON_INFERIOR, WORSE, INCONCLUSIVE)

WIN_RATE = "win_rate"
HIGHER_IS_BETTER = {"judge": True, "reward": True, "kl_reference": False, "mismatch_kl": False}
"""Metrics with a value per prompt; ``win_rate`` counts the judge's scores prompt by prompt."""

MARGIN_METRICS = (WIN_RATE, *HIGHER_IS_BETTER)


@dataclass(frozen=True)
class Margin:
    """How much worse than the baseline still counts as not worse; declared in the plan, before the first run.

    ``value`` is in the metric's unit: for ``win_rate`` 0.05 means that at least 45% must be shown, for the others it is
    a difference of means.

    Raises:
        ExperimentError: an unknown metric, or a value that is not a positive number.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        if self.metric not in MARGIN_METRICS:
            raise ExperimentError(f"margin of {self.metric!r}: {nearest(self.metric, MARGIN_METRICS)}")
        if (
            isinstance(self.value, bool)
            or not isinstance(self.value, (int, float))
            or not 0 < self.value < float("inf")
        ):
            raise ExperimentError(f"margin {self.metric}={self.value!r}: give a number above 0, e.g. win_rate=0.05")

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> Margin | None:
        """From the plan's ``{"metric": ..., "value": ...}``; None where none was declared."""
        if not declared:
            return None
        missing = [key for key in ("metric", "value") if key not in declared]
        if missing:
            raise ExperimentError(f"the plan's margin {dict(declared)} lacks {', '.join(missing)}")
        return cls(str(declared["metric"]), declared["value"])

    def __str__(self) -> str:
        return f"{self.metric} {self.value:g}"


@dataclass(frozen=True)
class Improvement:
    """Whether the baseline's training did anything that the judge can see: the judge's mean against the start's.

    ``counts``: the interval lies above 0 and the difference exceeds the noise floor.
    """

    interval: Interval
    noise: Noise
    counts: bool
    why: str


def improvement(interval: Interval, noise: Noise, baseline: str) -> Improvement:
    """Judge the baseline's own improvement over its start (in the judge's unit)."""
    found = f"{baseline} changed the judge's mean by {_signed(interval)} over its start"
    if noise.floor is None:
        return Improvement(interval, noise, False, f"{found}, but one seed shows no noise floor: run at least two")
    floor = f"the noise floor of {noise.seeds} seeds is {noise.floor:.3g}"
    if interval.low > 0 and interval.value > noise.floor:
        return Improvement(interval, noise, True, f"{found}; {floor}")
    return Improvement(interval, noise, False, f"{found}, which is not beyond the noise ({floor})")


@dataclass(frozen=True)
class Verdict:
    """One of :data:`VERDICTS`, and why."""

    word: str
    why: str


def decide(difference: Interval, margin: Margin | None, baseline: Improvement, names: tuple[str, str]) -> Verdict:
    """Call a comparison by its name.

    Args:
        difference: candidate against baseline in the margin's metric (``judge`` where none was declared), so turned
            that positive is better; for win rates less one half.
        baseline: a comparison counts only if the baseline's training did something.
        names: of candidate and baseline.
    """
    name, other = names
    if not baseline.counts:
        return Verdict(INCONCLUSIVE, f"{baseline.why}, so there was nothing that {name} could have lost")
    if difference.seeds < 2:
        return Verdict(INCONCLUSIVE, "one seed in common says nothing about other seeds: run at least two")
    what = f"{_measure(margin, other)} {_signed(difference)}"
    if difference.low > 0:
        return Verdict(BETTER, f"{what}: the whole interval lies above 0")
    if margin is not None and difference.low > -margin.value:
        lower = ", though measurably lower" if difference.high < 0 else ""
        return Verdict(NON_INFERIOR, f"{what}: at most {margin.value:g} worse, the margin declared beforehand{lower}")
    if difference.high < 0:
        beyond = ", all of it beyond the margin" if margin and difference.high < -margin.value else ""
        return Verdict(WORSE, f"{what}: the whole interval lies below 0{beyond}")
    limit = f" and beyond the margin of {margin.value:g}" if margin else "; no margin was declared"
    return Verdict(INCONCLUSIVE, f"{what}: the interval reaches from above 0 to below it{limit}")


def _measure(margin: Margin | None, other: str) -> str:
    if margin is not None and margin.metric == WIN_RATE:
        return f"win rate against {other} less one half"
    return f"{margin.metric if margin else 'judge'} against {other}"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"

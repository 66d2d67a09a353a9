"""Applies alert rules to a run's records, one after the other. Imports no framework: records may come from a file."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .rules import Rule


@dataclass(frozen=True)
class Alert:
    """A rule that was met. ``value`` is None where it was not finite; ``bound`` what it was held against."""

    step: int
    rule: str
    metric: str
    severity: str
    message: str
    value: float | None = None
    bound: float | None = None
    action: tuple[str, ...] = ("log", "mark")

    def record(self) -> dict[str, Any]:
        """As it stands in alerts.jsonl."""
        return {**vars(self), "action": list(self.action)}


@dataclass
class _Series:
    """What a rule remembers of one metric."""

    past: deque[float]
    start: list[float] = field(default_factory=list)
    met: int = 0
    silent_until: int = -1


class Watch:
    """Rules and what they remember. A metric that is missing from a record leaves its series as it is.

    "Steps" in a rule are records: with ``logging_steps: 10`` a record is made every ten training steps, and
    ``for_steps: 3`` means three of them; ``after_step`` and ``silent_for`` count the trainer's own steps.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = list(rules)
        self._series: dict[tuple[str, str], _Series] = {}

    def check(self, step: int, values: Mapping[str, float], not_finite: Iterable[str] = ()) -> list[tuple[Rule, Alert]]:
        """The alerts of one record; ``not_finite`` names further numbers that were NaN or infinite."""
        bad = sorted({*not_finite, *(name for name, value in values.items() if not math.isfinite(value))})
        found = []
        for rule in self.rules:
            if rule.not_finite:
                names = [name for name in bad if fnmatchcase(name, rule.metric)]
                found += self._met(rule, step, ", ".join(names), None, None) if names else self._unmet(rule, "")
                continue
            for name in [name for name in values if fnmatchcase(name, rule.metric)]:
                if math.isfinite(values[name]):
                    found += self._judge(rule, step, name, float(values[name]))
        return found

    # ------------------------------------------------------------------ one rule, one metric

    def _judge(self, rule: Rule, step: int, name: str, value: float) -> list[tuple[Rule, Alert]]:
        series = self._of(rule, name)
        bound = self._bound(rule, series, value)
        if rule.above_median is None or bound is None or value <= bound:
            series.past.append(value)  # a spike is no part of what is usual
        elif series.met + 1 >= rule.window:
            series.past.append(value)  # unless it is the new usual
        if bound is None or step < rule.after_step:
            return []
        low = rule.below is not None or rule.below_start is not None
        if not (value < bound if low else value > bound):
            series.met = 0
            return []
        return self._met(rule, step, name, value, bound)

    def _bound(self, rule: Rule, series: _Series, value: float) -> float | None:
        """What ``value`` is held against, None while too little is known."""
        if rule.above is not None:
            return rule.above
        if rule.below is not None:
            return rule.below
        if rule.below_start is not None:
            if len(series.start) < rule.needs:
                series.start.append(value)
                return None
            begun = statistics.median(series.start)
            return rule.below_start * begun if begun > 0 else None  # a share of less than nothing lies above it
        assert rule.above_median is not None
        if len(series.past) < rule.needs:
            return None
        usual = rule.above_median * statistics.median(series.past)
        if rule.at_least is not None:
            return max(usual, rule.at_least)
        return usual if usual > 0 else None

    def _met(
        self, rule: Rule, step: int, name: str, value: float | None, bound: float | None
    ) -> list[tuple[Rule, Alert]]:
        series = self._of(rule, name if value is not None else "")
        series.met += 1
        if series.met < rule.for_steps or step < rule.after_step or step <= series.silent_until:
            return []
        series.silent_until = step + rule.silent_for
        message = _message(rule, name, value, bound, series.met)
        return [(rule, Alert(step, rule.name, name, rule.severity, message, value, bound, rule.action))]

    def _unmet(self, rule: Rule, name: str) -> list[tuple[Rule, Alert]]:
        self._of(rule, name).met = 0
        return []

    def _of(self, rule: Rule, name: str) -> _Series:
        return self._series.setdefault((rule.name, name), _Series(deque(maxlen=rule.window)))


def _message(rule: Rule, name: str, value: float | None, bound: float | None, steps: int) -> str:
    if value is None or bound is None:
        text = f"{name} is NaN or infinite"
    else:
        against = ""
        if rule.above_median is not None:
            against = f", {rule.above_median:g} times its running median"
        elif rule.below_start is not None:
            against = f", {rule.below_start:g} of where it began"
        side = "below" if rule.condition.startswith("below") else "above"
        text = f"{name} {value:.4g} is {side} {bound:.4g}{against}"
        if rule.for_steps > 1:
            text += f" for {steps} records"
    return f"{text}. {rule.hint}" if rule.hint else text

"""When to widen and when to narrow: budgets with hysteresis, as a thermostat has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import PluginError


@dataclass(frozen=True)
class Budget:
    """The number that ``metric`` may reach.

    Raises:
        PluginError: not a number above 0.
    """

    metric: str
    limit: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0.0):
            raise PluginError(f"the budget of {self.metric} is {self.limit}; it must be a number above 0")


class Thermostat:
    """Judges each step's numbers: +1 widen, -1 narrow, 0 stay.

    Over a budget it widens at once. It narrows after ``patience`` numbers in a row below ``slack`` of their budgets;
    between the two nothing happens, or formats would swing with every step.

    Raises:
        PluginError: ``slack`` outside (0, 1), ``patience`` below 1.
    """

    def __init__(self, budgets: Sequence[Budget], slack: float, patience: int) -> None:
        if not 0.0 < slack < 1.0:
            raise PluginError(f"slack={slack} must lie between 0 and 1")
        if patience < 1:
            raise PluginError(f"patience={patience} must be at least 1")
        self.budgets = tuple(budgets)
        self.slack, self.patience = slack, patience
        self._seen: dict[str, float] = {}
        self._calm = 0

    def judge(self, metrics: Mapping[str, float]) -> tuple[int, str]:
        """The decision, and the number that made it.

        A trainer that logs every n steps shows one number n times, and mismatch is not measured at each step: what
        did not change is no news.
        """
        news = {
            budget: value
            for budget in self.budgets
            if (value := metrics.get(budget.metric)) is not None and value != self._seen.get(budget.metric)
        }
        for budget, value in news.items():
            self._seen[budget.metric] = value
        for budget, value in news.items():
            if not value <= budget.limit:  # NaN is over every budget
                self._calm = 0
                return 1, f"{budget.metric} {value:.4g} is over {budget.limit:g}"
        if not news:
            return 0, ""
        far_below = all(value < self.slack * budget.limit for budget, value in news.items())
        self._calm = self._calm + 1 if far_below else 0
        if self._calm < self.patience:
            return 0, ""
        self._calm = 0
        return -1, f"{self.patience} numbers in a row below {self.slack:g} of their budgets"

    def state_dict(self) -> dict[str, Any]:
        return {"seen": dict(self._seen), "calm": self._calm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen, self._calm = dict(state["seen"]), int(state["calm"])

"""Do costs of single layers add up? Predicted against measured costs of random policies around the chosen one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import fsum, isfinite

from ...errors import PolicyError
from ..max_cost import Scope
from ..policy import PrecisionPolicy
from .problem import Assignment
from .result import ScopeResult, SearchResult

FEWEST = 20
"""Random policies below which a verdict is not worth printing."""

NEAR = (0.25, 2.0)
"""Predicted costs of the random policies, in budgets."""

Measure = Callable[[PrecisionPolicy], Mapping[Scope, float]]
"""The cost of a whole policy, by (phase, role), in the matrix's units; infinite where it broke the model."""


@dataclass(frozen=True)
class Trial:
    """One policy in one (phase, role)."""

    predicted: float
    measured: float
    formats: Mapping[str, int]


@dataclass(frozen=True)
class ScopeVerdict:
    """How well sums of single layers predict whole policies, in one (phase, role).

    ``trials``: the random policies. ``chosen``: the search's.
    """

    result: ScopeResult
    trials: tuple[Trial, ...]
    chosen: Trial

    @property
    def finite(self) -> tuple[Trial, ...]:
        """Trials that did not break the model."""
        return tuple(trial for trial in self.trials if isfinite(trial.measured))

    @property
    def r_squared(self) -> float | None:
        """1 - sum (measured - predicted)^2 / sum (measured - mean)^2: 1 is exact, 0 no better than one number for all.

        Against the prediction itself, not against a line fitted to it. None where all measured costs are alike.
        """
        trials = self.finite
        if len(trials) < 2:
            return None
        mean = fsum(trial.measured for trial in trials) / len(trials)
        spread = fsum((trial.measured - mean) ** 2 for trial in trials)
        if spread == 0:
            return None
        return 1 - fsum((trial.measured - trial.predicted) ** 2 for trial in trials) / spread

    @property
    def slope(self) -> float | None:
        """Measured over predicted, by least squares through the origin; above 1, layers cost more together."""
        weight = fsum(trial.predicted**2 for trial in self.finite)
        return fsum(trial.measured * trial.predicted for trial in self.finite) / weight if weight else None

    @property
    def worst(self) -> Trial:
        """The trial whose measured cost is farthest from the predicted one."""
        return max(self.trials, key=lambda trial: abs(trial.measured - trial.predicted))

    @property
    def within_budget(self) -> bool:
        """Whether the chosen policy, measured, keeps its budget."""
        return self.chosen.measured <= self.result.budget

    def lines(self) -> list[str]:
        """The verdict for people."""
        where, unit = "/".join(self.result.scope), self.result.unit
        r_squared, slope = (f"{x:.3f}" if x is not None else "undefined" for x in (self.r_squared, self.slope))
        broken = len(self.trials) - len(self.finite)
        lost = f", {broken} broke the model and are left out of both" if broken else ""
        kept = "keeps" if self.within_budget else "EXCEEDS"
        lines = [
            f"{where}: R^2 {r_squared} of predicted against measured cost over {len(self.trials)} random policies{lost}"
            f"; measured is {slope} times predicted",
            f"{where}: worst: predicted {self.worst.predicted:.4g}, measured {self.worst.measured:.4g} {unit} "
            f"({', '.join(f'{format} {count}' for format, count in self.worst.formats.items())})",
            f"{where}: the chosen policy: predicted {self.chosen.predicted:.4g}, measured {self.chosen.measured:.4g} "
            f"{unit}, {kept} the budget of {self.result.budget:g}",
        ]
        if not self.within_budget and self.chosen.measured > 0 and isfinite(self.chosen.measured):
            factor = self.chosen.predicted / self.chosen.measured
            lines.append(f"{where}: try a budget of about {self.result.budget * factor:.3g}, and verify again")
        return lines


def random_assignments(result: ScopeResult, count: int, seed: int) -> list[Assignment]:
    """Policies for one (phase, role) whose predicted costs lie around the budget: ``NEAR[0]`` to ``NEAR[1]`` of it.

    Each visits the layers in random order and gives each a random one of the options that still fit a random target.
    """
    draw = random.Random(f"{seed} {'/'.join(result.scope)}")
    whole = [[option for option in group.options if isfinite(option.cost)] for group in result.groups]
    least = [min(options, key=lambda option: option.cost) for options in whole]
    low, high = _targets(result.budget, [[option.cost for option in options] for options in whole])
    found = []
    for number in range(count):
        # Targets are spread evenly: a cluster of equal costs would say nothing about the slope.
        target = low + (high - low) * (number + draw.random()) / count
        taken = list(least)
        spent = fsum(option.cost for option in least)
        for index in draw.sample(range(len(whole)), len(whole)):
            others = spent - taken[index].cost
            fitting = [option for option in whole[index] if others + option.cost <= target]
            taken[index] = draw.choice(fitting or [taken[index]])
            spent = others + taken[index].cost
        found.append(Assignment(result.groups, tuple(taken)))
    return found


def _targets(budget: float, costs: list[list[float]]) -> tuple[float, float]:
    """Predicted costs between which random policies are drawn; the whole range where the budget leaves no room."""
    least, most = fsum(min(each) for each in costs), fsum(max(each) for each in costs)
    low, high = (min(max(budget * share, least), most) for share in NEAR)
    return (low, high) if low < high else (least, most)


def check_count(count: int) -> None:
    """Raise PolicyError for fewer than ``FEWEST`` random policies."""
    if count < FEWEST:
        raise PolicyError(f"{count} random policies prove little; verify at least {FEWEST}")


def verify(
    result: SearchResult,
    measure: Measure,
    count: int = FEWEST,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[ScopeVerdict, ...]:
    """Measure ``count`` random policies and the chosen one.

    Each random policy is random in every searched phase and role at once; costs of different phases and roles do not
    depend on one another, because each is measured by itself.

    Args:
        progress: told, in words, what has been measured.

    Raises:
        PolicyError: fewer than ``FEWEST`` policies.
        KeyError: ``measure`` leaves a searched (phase, role) out.
    """
    check_count(count)
    drawn = {scope: random_assignments(found, count, seed) for scope, found in result.scopes.items()}
    trials: dict[Scope, list[Trial]] = {scope: [] for scope in drawn}
    for number in range(count):
        together = {scope: assignments[number] for scope, assignments in drawn.items()}
        for scope, trial in _measured(result, together, f"random-{number}", measure).items():
            trials[scope].append(trial)
        progress(f"random policy {number + 1} of {count}")
    own = {scope: found.chosen for scope, found in result.scopes.items()}
    chosen = _measured(result, own, "chosen", measure)
    progress("the chosen policy")
    return tuple(ScopeVerdict(result.scopes[scope], tuple(trials[scope]), chosen[scope]) for scope in result.scopes)


def _measured(
    result: SearchResult, assignments: Mapping[Scope, Assignment], name: str, measure: Measure
) -> dict[Scope, Trial]:
    costs = measure(result.policy_of(assignments, name))
    return {
        scope: Trial(assignment.cost, costs[scope], assignment.formats()) for scope, assignment in assignments.items()
    }

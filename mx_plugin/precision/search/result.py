"""What a search found: the policy, its predicted cost and price, and how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...formats.spec import FP16
from ..max_cost import Scope
from ..policy import PhaseEntries, PrecisionPolicy
from .problem import Assignment, Group


@dataclass(frozen=True)
class ScopeResult:
    """One (phase, role): its groups, its budget in ``unit``, and the choice.

    ``metric``: the matrix's, whose costs were read. ``method``: how the choice was found.
    """

    scope: Scope
    groups: tuple[Group, ...]
    budget: float
    unit: str
    metric: str
    chosen: Assignment
    method: str

    @property
    def unquantised_price(self) -> float | None:
        """The price with every layer FP16; None where FP16 was not allowed."""
        options = [next((o for o in group.options if o.format == FP16), None) for group in self.groups]
        taken = tuple(option for option in options if option is not None)
        return Assignment(self.groups, taken).price if len(taken) == len(options) else None


@dataclass(frozen=True)
class SearchResult:
    """The choice of every (phase, role) with a budget. Costs are predictions: sums of what single layers cost."""

    scopes: Mapping[Scope, ScopeResult]
    objective: str
    price_unit: str
    source: str
    scale_rule: str
    activations: str
    left_out: Mapping[str, str]
    without_budget: tuple[Scope, ...]
    notes: tuple[str, ...] = ()

    def policy(self, name: str = "searched") -> PrecisionPolicy:
        """The choice as explicit rules, one for each layer, phase and role; all else stays unquantised.

        Raises:
            PolicyError: lm_head outside rollout.
        """
        return self.policy_of({scope: result.chosen for scope, result in self.scopes.items()}, name)

    def policy_of(self, assignments: Mapping[Scope, Assignment], name: str) -> PrecisionPolicy:
        """Any choice of options as a policy."""
        rules = tuple(rule for assignment in assignments.values() for rule in assignment.rules())
        return PrecisionPolicy(
            name=name,
            description=self._description(assignments),
            activations=self.activations,
            scale_rule=self.scale_rule,
            defaults=PhaseEntries(FP16, FP16, FP16),
            rules=rules,
            source=self.source,
        )

    def _description(self, assignments: Mapping[Scope, Assignment]) -> str:
        kept = [
            f"{'/'.join(scope)} {assignment.cost:.6g} of {self.scopes[scope].budget:g} {self.scopes[scope].unit}"
            for scope, assignment in assignments.items()
        ]
        return f"Least {self.objective} by {self.source} within a predicted cost of {', '.join(kept)}."

    @property
    def price(self) -> float:
        """The objective over all searched phases and roles."""
        return sum(result.chosen.price for result in self.scopes.values())

    def lines(self) -> list[str]:
        """The result for people."""
        found = [self._line(result) for result in self.scopes.values()]
        if self.without_budget:
            found.append(f"without a budget, so unquantised: {', '.join('/'.join(s) for s in self.without_budget)}")
        reasons: dict[str, list[str]] = {}
        for pair, reason in sorted(self.left_out.items()):
            reasons.setdefault(reason, []).append(pair)
        found += [f"left out, {reason}: {', '.join(pairs)}" for reason, pairs in reasons.items()]
        return found + [f"note: {note}" for note in self.notes]

    def _line(self, result: ScopeResult) -> str:
        chosen, whole = result.chosen, result.unquantised_price
        share = f" of {whole:.6g} unquantised ({chosen.price / whole:.1%})" if whole else ""
        formats = ", ".join(f"{format} {count}" for format, count in chosen.formats().items())
        return (
            f"{'/'.join(result.scope)}: predicted cost {chosen.cost:.6g} of {result.budget:g} {result.unit}; "
            f"{chosen.price:.6g} {self.price_unit}{share}; layers: {formats} [{result.method}]"
        )

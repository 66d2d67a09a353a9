"""Policy D: a sensitivity matrix and a limit, turned into explicit rules."""

from __future__ import annotations

from dataclasses import replace

from ..errors import PolicyError
from .matrix import Choice, SensitivityMatrix
from .max_cost import MaxCost
from .policy import PrecisionPolicy, Rule


def policy_from_matrix(
    matrix: SensitivityMatrix, max_cost: MaxCost, base: PrecisionPolicy | None = None
) -> PrecisionPolicy:
    """See ``PrecisionPolicy.from_matrix``."""
    from .load import builtin_policy

    base = base or builtin_policy("D")
    choices = sorted(matrix.choose(max_cost), key=_least_specific_first)
    rules = tuple(_rule(choice, matrix.source) for choice in choices)
    description = f"{base.description} Drawn from {matrix.source}, max_cost {_in_words(max_cost)}.".strip()
    return replace(base, rules=rules + base.rules, needs_matrix=False, description=description, source=matrix.source)


def _least_specific_first(choice: Choice) -> tuple[int, str, str, str]:
    # The last rule that matches wins, so that the longest name must come last.
    return (choice.layer.count("."), choice.layer, choice.phase, choice.role)


def _rule(choice: Choice, source: str) -> Rule:
    try:
        return Rule(choice.layer, choice.format, (choice.phase,), (choice.role,))
    except PolicyError as error:
        raise PolicyError(f"{source}: layer {choice.layer!r}, phase {choice.phase}: {error}") from None


def _in_words(max_cost: MaxCost) -> str:
    if isinstance(max_cost, int | float):
        return f"{max_cost:g}"
    return ", ".join(f"{scope} {limit:g}" for scope, limit in max_cost.items())

"""The search: from a matrix, budgets and an objective to the cheapest policy, and to the fronts it was chosen from."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from ...errors import PolicyError
from ...formats.spec import FP16
from ..matrix import SensitivityMatrix
from ..max_cost import Scope
from ..patterns import first_five
from . import exact, solver
from .budget import budgets_of
from .groups import Allowed, groups_of
from .objective import Objective
from .problem import Assignment, Group
from .result import ScopeResult, SearchResult
from .shapes import Shapes
from .whole_numbers import exact_sum


def search(
    matrix: SensitivityMatrix,
    budgets: Mapping[str, float],
    objective: Objective,
    shapes: Shapes,
    allowed: Allowed | None = None,
    *,
    scale_rule: str = "rceil",
    most_points: int = exact.MOST_POINTS,
) -> SearchResult:
    """The cheapest policy whose predicted cost keeps every budget: the sum over layers, per phase and role.

    Each (phase, role) is solved by HiGHS and, unless its front has more than ``most_points``, by exact dynamic
    programming as well, which has the last word: HiGHS works to a tolerance of 1e-6, and leaves open which of equal
    policies it takes. Of policies with equal price the one of least cost is taken, and of those always the same,
    whatever the order of the matrix's rows. Phases and roles without a budget stay unquantised.

    Args:
        budgets: by ``phase`` or ``phase/role``, in the matrix's unit.
        shapes: of every layer of the matrix, see ``shapes_of``.

    Raises:
        PolicyError: a budget that does not fit the matrix, or that nothing fits (says the smallest that is feasible,
            for each that is not); formats that are not known.
        MatrixError: a matrix that cannot be searched, see ``groups_of``.
        MXError: the objective cannot price a format; no scipy.
    """
    allowed = allowed or Allowed()
    limits = budgets_of(budgets, matrix)
    groups, left_out = groups_of(matrix, limits, shapes, objective, allowed)
    _check_feasible(groups, limits, matrix)
    measures = matrix.measures()
    metrics = {(row.phase, row.role): row.metric for row in matrix.rows}
    scopes = {
        scope: _solve(scope, groups[scope], limits[scope], measures[scope][0], metrics[scope], most_points)
        for scope in sorted(limits)
    }
    return SearchResult(
        scopes=scopes,
        objective=objective.name,
        price_unit=objective.unit,
        source=matrix.source,
        scale_rule=scale_rule,
        activations=allowed.activations,
        left_out=left_out,
        without_budget=tuple(scope for scope in measures if scope not in limits),
        notes=tuple(objective.notes()),
    )


def _solve(
    scope: Scope, groups: tuple[Group, ...], budget: float, unit: str, metric: str, most_points: int
) -> ScopeResult:
    solution = solver.cheapest(groups, budget)
    front = exact.front(groups, budget, most_points)
    if front is None:
        chosen, method = solution.assignment, f"HiGHS, to {solver.TOLERANCE:g}"
        if solution.gap:
            method = f"HiGHS, stopped after {solver.TIME_LIMIT:g} s, within {solution.gap:.2%} of the best"
    else:
        chosen, method = front.assignment(len(front) - 1), "exact; HiGHS agrees"
        _check_agreement(solution, chosen, scope)
        if solution.gap:
            method = f"exact; HiGHS stopped after {solver.TIME_LIMIT:g} s"
    return ScopeResult(scope, groups, budget, unit, metric, chosen, method)


def _check_agreement(solution: solver.Solution, chosen: Assignment, scope: Scope) -> None:
    """Two methods that know nothing of each other must find the same price."""
    largest = sum(max(option.price for option in group.options) for group in chosen.groups)
    off = solution.assignment.price - chosen.price
    allowed = 2 * solver.TOLERANCE * largest + solution.gap * abs(solution.assignment.price)
    if not -1e-9 * largest <= off <= allowed:
        raise solver.SolverError(
            f"{'/'.join(scope)}: HiGHS found a price of {solution.assignment.price!r}, the exact front "
            f"{chosen.price!r}; one of them is wrong: please report it, with the matrix"
        )


def _check_feasible(
    groups: Mapping[Scope, tuple[Group, ...]], limits: Mapping[Scope, float], matrix: SensitivityMatrix
) -> None:
    """Raise PolicyError with the smallest feasible budget of each scope that has less."""
    troubles = []
    for scope, members in groups.items():
        where = "/".join(scope)
        hopeless = [g.layer for g in members if not any(isfinite(option.cost) for option in g.options)]
        if hopeless:
            troubles.append(f"{where}: no budget is large enough, every format breaks {first_five(hopeless)}")
            continue
        least = exact_sum(min(option.cost for option in group.options) for group in members)
        if isfinite(limits[scope]) and least > exact_sum([limits[scope]]):
            unit = matrix.measures()[scope][0]
            troubles.append(f"{where}: {limits[scope]:g} given, the smallest feasible is {least} {unit}")
    if troubles:
        raise PolicyError(f"no policy keeps the budget: {'; '.join(troubles)} (without {FP16}; allow it, and 0 is)")

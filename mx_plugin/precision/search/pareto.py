"""Fronts of a search: for each phase and role, every policy that no other beats in both cost and price."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ...errors import MXError
from . import exact, solver
from .problem import Assignment
from .result import ScopeResult, SearchResult

GRID = 40
"""Budgets of a grid, where a front is too long to be computed whole."""

COLUMNS = ("phase", "role", "cost", "unit", "objective", "price", "price_unit", "chosen", "method", "formats")


@dataclass(frozen=True)
class Point:
    """A policy for one phase and role, by what it costs and what it weighs."""

    cost: float
    price: float
    formats: dict[str, int]


@dataclass(frozen=True)
class ScopeFront:
    """The front of one (phase, role), by rising cost; ``method`` says whether it is whole."""

    result: ScopeResult
    points: tuple[Point, ...]
    method: str


def front_of(result: ScopeResult, most_points: int = exact.MOST_POINTS, grid: int = GRID) -> ScopeFront:
    """The whole front of one (phase, role), from the policy of least cost to that of least price.

    Where it has more than ``most_points``, the cheapest policies at ``grid`` budgets instead: 0, then a geometric
    series from the least positive cost of a format to the cost of the policy of least price.

    Raises:
        SolverError: no scipy, for the grid.
    """
    front = exact.front(result.groups, most=most_points)
    if front is not None:
        every = range(len(front))
        counts = (front.assignment(point).formats() for point in every)
        points = tuple(map(Point, front.costs, front.prices, counts))
        return ScopeFront(result, points, "exact")
    found = [_point(solver.cheapest(result.groups, budget).assignment) for budget in _budgets(result, grid)]
    return ScopeFront(result, _undominated(found), f"grid of {grid} budgets, HiGHS")


def _budgets(result: ScopeResult, count: int) -> Iterator[float]:
    # Where the policy of least cost costs something (no FP16), the series starts there.
    finite = [[option.cost for option in group.options if isfinite(option.cost)] for group in result.groups]
    least = sum(min(costs) for costs in finite)
    most = sum(max(costs) for costs in finite)
    start = least or min((cost for costs in finite for cost in costs if cost > 0), default=0.0)
    # The sum in floats may lie below the exact one by its rounding.
    yield least * (1 + 1e-12)
    for index in range(count - 1 if start else 0):
        yield start * (most / start) ** ((index + 1) / (count - 1)) * (1 + 1e-12)


def _point(assignment: Assignment) -> Point:
    return Point(assignment.cost, assignment.price, assignment.formats())


def _undominated(points: Sequence[Point]) -> tuple[Point, ...]:
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.price)):
        if not kept or point.price < kept[-1].price:
            kept.append(point)
    return tuple(kept)


def write_fronts(path: str | Path, search: SearchResult, fronts: Sequence[ScopeFront]) -> None:
    """Write a CSV with one row for each point; ``chosen`` marks the search's own.

    Raises:
        MXError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for front in fronts:
        chosen = front.result.chosen
        for point in front.points:
            is_chosen = (point.cost, point.price) == (chosen.cost, chosen.price)
            formats = "; ".join(f"{format} {count}" for format, count in point.formats.items())
            writer.writerow(
                [
                    *(*front.result.scope, point.cost, front.result.unit, search.objective, point.price),
                    *(search.price_unit, "yes" if is_chosen else "", front.method, formats),
                ]
            )
    try:
        Path(path).write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise MXError(f"cannot write the front to {path}: {error.strerror or error}; check the path") from error

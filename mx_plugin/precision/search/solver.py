"""The cheapest policy within one budget, by integer programming: a multiple-choice knapsack for HiGHS.

minimise sum price x, subject to: one option a group (sum x = 1), sum cost x <= budget, x binary. Kellerer, Pferschy
and Pisinger, "Knapsack Problems" (Springer, 2004), chapter 11; solved by Huangfu and Hall's HiGHS (Mathematical
Programming Computation 10 (2018) 119-142) through ``scipy.optimize.milp``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from ...errors import MXError
from .problem import Assignment, Group, Option, undominated
from .whole_numbers import exact_sum

TOLERANCE = 1e-6
"""HiGHS's absolute tolerance, here relative to the budget and to the largest price: what it may be off by."""

TIME_LIMIT = 60.0
"""Seconds after which HiGHS's best answer so far is taken, and said to be unproven."""

_ATTEMPTS = 8
_OPTIMAL, _TIME_LIMIT_REACHED, _INFEASIBLE = 0, 1, 2


class SolverError(MXError, RuntimeError):
    """scipy is missing, or HiGHS found no solution where there is one."""


@dataclass(frozen=True)
class Solution:
    """What HiGHS found; ``gap`` is by how much of the price it may be off at most, beside ``TOLERANCE``."""

    assignment: Assignment
    gap: float = 0.0


def cheapest(groups: Sequence[Group], budget: float, time_limit: float = TIME_LIMIT) -> Solution:
    """The assignment of least price whose cost, added up exactly, is at most ``budget``; groups of one scope.

    The price is least to within ``TOLERANCE`` of the largest sum of prices.

    Raises:
        SolverError: no scipy, or HiGHS failed.
        ValueError: no choice of options fits the budget.
    """
    groups = tuple(groups)
    options = tuple(undominated([o for o in g.options if isfinite(o.cost) and o.cost <= budget]) for g in groups)
    if not all(options) or not _fits((group[0] for group in options), budget):
        raise ValueError("no policy fits the budget")
    # HiGHS admits sums beyond a limit by its tolerance, so a little less is offered until the exact sum fits.
    offered = 1.0
    for _ in range(_ATTEMPTS):
        solved = _solve(options, budget, offered, time_limit)
        if solved is None:
            break
        picks, gap = solved
        taken = tuple(group[pick] for group, pick in zip(options, picks, strict=True))
        if _fits(taken, budget):
            return Solution(Assignment(groups, taken), gap)
        offered -= TOLERANCE
    # Within the tolerance of the budget there is nothing but the policy of least cost.
    return Solution(Assignment(groups, tuple(group[0] for group in options)))


def _fits(options: Iterable[Option], budget: float) -> bool:
    return not isfinite(budget) or exact_sum(option.cost for option in options) <= exact_sum([budget])


def _solve(
    options: Sequence[Sequence[Option]], budget: float, offered: float, time_limit: float
) -> tuple[list[int], float] | None:
    """Index of the option taken in each group, and the gap; None where HiGHS sees that nothing fits."""
    optimize, sparse = _scipy()
    sizes = [len(group) for group in options]
    prices = np.array([option.price for group in options for option in group], float)
    costs = np.array([option.cost for group in options for option in group], float)
    rows = np.repeat(np.arange(len(options)), sizes)
    one_each = sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(options), len(rows)))
    constraints = [optimize.LinearConstraint(one_each, 1, 1)]
    if isfinite(budget) and budget > 0:
        constraints.append(optimize.LinearConstraint(costs[None, :] / budget, -np.inf, offered))
    largest = sum(max(option.price for option in group) for group in options) or 1.0
    with _stdout_to_stderr():
        result = optimize.milp(
            prices / largest,
            integrality=np.ones(len(rows)),
            bounds=optimize.Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": time_limit},
        )
    if result.status == _INFEASIBLE:
        return None
    if result.x is None or result.status not in (_OPTIMAL, _TIME_LIMIT_REACHED):
        raise SolverError(
            f"HiGHS found no policy for {len(options)} layers within {time_limit:g} s: {result.message} "
            "(leave formats out by --formats, or raise the budget)"
        )
    starts = np.concatenate([[0], np.cumsum(sizes)])
    picks = [int(np.argmax(result.x[start:stop])) for start, stop in pairwise(starts)]
    return picks, 0.0 if result.status == _OPTIMAL else float(result.mip_gap)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """HiGHS prints debugging lines to the process's stdout, where a policy may be printed."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import optimize, sparse
    except ImportError as error:
        raise SolverError(f"the search needs scipy ({error}); pip install 'mx-plugin[search]'") from error
    return optimize, sparse

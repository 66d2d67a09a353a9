"""The whole Pareto front of one scope, exactly: every cheapest policy, from the costless one to the cheapest of all.

Layer by layer, the front of the layers so far is combined with every option of the next, and what is dominated is
dropped (Nemhauser and Ullmann, "Discrete dynamic programming and capital allocation", Management Science 15 (1969)
494-505). All numbers are whole, of 18 digits (``whole_numbers``): sums lose nothing, ties are ties, and a digit that
does not fit makes a cost larger, never smaller. Layers of one shape have one price, so that fronts stay small; where
they do not, the caller asks for a grid instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from .problem import Assignment, Group, Option, undominated
from .whole_numbers import Scale

MOST_POINTS = 100_000
"""A front that grows beyond this is given up."""

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Front:
    """Points by rising cost and falling price; ``costs`` and ``prices`` are those of the real numbers, to 15 digits.

    ``picks[point, group]``: the option taken, an index into ``options[group]``.
    """

    groups: tuple[Group, ...]
    options: tuple[tuple[Option, ...], ...]
    costs: tuple[float, ...]
    prices: tuple[float, ...]
    picks: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.costs)

    def assignment(self, point: int) -> Assignment:
        """The policy at one point of the front."""
        picked = zip(self.options, self.picks[point], strict=True)
        return Assignment(self.groups, tuple(options[pick] for options, pick in picked))


def front(groups: Sequence[Group], budget: float | None = None, most: int = MOST_POINTS) -> Front | None:
    """The Pareto front of groups of one scope: up to ``budget``, or as far as finite costs go.

    Of policies with equal cost and price, the one whose last layers (in the order of ``groups``) cost least is
    kept. None where the front has more than ``most`` points on the way.

    Raises:
        ValueError: no choice of options fits the budget.
    """
    groups = tuple(groups)
    whole = _Whole(tuple(_within(group, budget) for group in groups), budget)
    points = _Points(np.zeros(1, np.int64), np.zeros(1, np.int64))
    trail: list[_Step] = []
    for costs, prices in zip(whole.costs, whole.prices, strict=True):
        points, step = points.grown(costs, prices, whole.limit)
        if len(points.costs) > most:
            return None
        if not len(points.costs):
            raise ValueError("no policy fits the budget")
        trail.append(step)
    return Front(
        groups,
        whole.options,
        tuple(whole.cost_scale.back(cost) for cost in points.costs.tolist()),
        tuple(whole.price_scale.back(price) for price in points.prices.tolist()),
        _read_back(trail, len(points.costs)),
    )


def _within(group: Group, budget: float | None) -> tuple[Option, ...]:
    fitting = [o for o in group.options if isfinite(o.cost) and (budget is None or o.cost <= budget)]
    if not fitting:
        raise ValueError(f"no option of {group.layer!r} fits the budget")
    return undominated(fitting)


class _Whole:
    """Costs and prices of every group as whole numbers, and the budget (None: no limit)."""

    def __init__(self, options: tuple[tuple[Option, ...], ...], budget: float | None) -> None:
        self.options = options
        self.cost_scale = Scale([o.cost for o in group] for group in options)
        self.price_scale = Scale([o.price for o in group] for group in options)
        self.costs = [np.array([self.cost_scale.up(o.cost) for o in group], np.int64) for group in options]
        self.prices = [np.array([self.price_scale.near(o.price) for o in group], np.int64) for group in options]
        most = sum(int(group.max()) for group in self.costs)
        # A budget beyond all costs may be too large a number for int64, and limits nothing.
        limited = budget is not None and isfinite(budget) and self.cost_scale.down(budget) < most
        self.limit = self.cost_scale.down(budget) if budget is not None and limited else None


@dataclass(frozen=True)
class _Step:
    """For each point of a front with one group more: the point that it grew from, and the option taken."""

    parents: npt.NDArray[np.int32]
    picks: npt.NDArray[np.int16]


@dataclass(frozen=True)
class _Points:
    costs: _Ints
    prices: _Ints

    def grown(self, costs: _Ints, prices: _Ints, limit: int | None) -> tuple[_Points, _Step]:
        """The undominated sums of these points and one group's options."""
        all_costs = (costs[:, None] + self.costs).ravel()
        all_prices = (prices[:, None] + self.prices).ravel()
        # Runs that are sorted already: a stable sort merges them. Earlier options come first among equals.
        order = np.argsort(all_costs, kind="stable")
        if limit is not None:
            order = order[: int(np.searchsorted(all_costs[order], limit, side="right"))]
        order = _undominated(all_costs, all_prices, order)
        step = _Step((order % len(self.costs)).astype(np.int32), (order // len(self.costs)).astype(np.int16))
        return _Points(all_costs[order], all_prices[order]), step


def _undominated(costs: _Ints, prices: _Ints, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Those of ``order`` (by rising cost) whose price is below that of all before."""
    if not len(order):
        return order
    sorted_prices = prices[order]
    lowest_before = np.minimum.accumulate(sorted_prices)
    falls = np.empty(len(order), bool)
    falls[0] = True
    falls[1:] = sorted_prices[1:] < lowest_before[:-1]
    order = order[falls]
    # Of equal costs the last has the lowest price.
    kept: npt.NDArray[np.intp] = order[np.append(costs[order][1:] != costs[order][:-1], True)]
    return kept


def _read_back(trail: list[_Step], count: int) -> npt.NDArray[np.int16]:
    """The options of every point: (points, groups)."""
    picks = np.zeros((count, len(trail)), np.int16)
    at: npt.NDArray[np.int32] = np.arange(count, dtype=np.int32)
    for index in range(len(trail) - 1, -1, -1):
        picks[:, index] = trail[index].picks[at]
        at = trail[index].parents[at]
    return picks

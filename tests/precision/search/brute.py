"""Every policy of a small matrix, tried one by one, in exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

from mx_plugin.precision.search.problem import Group, Option


def exact(value: float) -> Fraction:
    """The decimal that a float prints as."""
    return Fraction(repr(value))


def every(groups: Sequence[Group]) -> list[tuple[Fraction, Fraction, tuple[Option, ...]]]:
    """(cost, price, options) of all policies of finite cost."""
    found = []
    for options in product(*(group.options for group in groups)):
        if all(option.cost != float("inf") for option in options):
            cost = sum((exact(option.cost) for option in options), Fraction(0))
            found.append((cost, sum((exact(option.price) for option in options), Fraction(0)), options))
    return found


def best(groups: Sequence[Group], budget: float) -> tuple[Fraction, Fraction]:
    """(price, cost) of the cheapest within the budget; of equal prices the lowest cost."""
    within = [(price, cost) for cost, price, _ in every(groups) if budget == float("inf") or cost <= exact(budget)]
    return min(within)


def front(groups: Sequence[Group]) -> list[tuple[Fraction, Fraction]]:
    """(cost, price) of every policy that no other beats, by rising cost."""
    points = {(cost, price) for cost, price, _ in every(groups)}
    return sorted(
        (cost, price)
        for cost, price in points
        if not any(c <= cost and p <= price and (c, p) != (cost, price) for c, p in points)
    )

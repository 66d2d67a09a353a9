"""The dynamic programme and HiGHS against every policy of a small matrix, tried one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mx_plugin.precision.search import exact, solver
from mx_plugin.precision.search.problem import Group, Option
from mx_plugin.precision.search.whole_numbers import Scale
from tests.precision.search import brute

PAIRS = ("MXFP4/MXFP8", "MXFP6/MXFP8", "MXFP8/MXFP8")


decimals = st.integers(0, 10**15).map(lambda n: n / 10**12)
"""Up to 1000, in twelve decimals."""


@st.composite
def group_lists(draw: st.DrawFn) -> list[Group]:
    """Up to five layers of up to four options; decimals, so that sums meet budgets exactly, and equal layers."""
    count = draw(st.integers(1, 5))
    cost = st.one_of(st.integers(0, 30).map(lambda n: n / 100), decimals, st.just(math.inf))
    price = st.one_of(st.integers(0, 40).map(float), decimals)
    groups = []
    for index in range(count):
        if groups and draw(st.booleans()):
            options = groups[-1].options  # a layer just like the last: ties
        else:
            pairs = draw(st.lists(st.sampled_from(PAIRS), unique=True))
            options = (Option("FP16", 0.0, draw(price)), *(Option(p, draw(cost), draw(price)) for p in pairs))
        groups.append(Group(f"h.{index}", "rollout", "policy", options))
    return groups


budgets = st.one_of(st.integers(0, 100).map(lambda n: n / 100), decimals, st.just(math.inf))


@settings(max_examples=150, deadline=None)
@given(group_lists(), budgets)
def test_the_last_point_of_the_front_is_the_cheapest_policy_within_the_budget(
    groups: list[Group], budget: float
) -> None:
    front = exact.front(groups, budget)
    assert front is not None
    chosen = front.assignment(len(front) - 1)
    price, cost = brute.best(groups, budget)
    assert (chosen.price, chosen.cost) == (float(price), float(cost))
    assert math.isinf(budget) or sum(map(brute.exact, (o.cost for o in chosen.options))) <= brute.exact(budget)


@settings(max_examples=150, deadline=None)
@given(group_lists())
def test_the_front_is_that_of_all_policies(groups: list[Group]) -> None:
    front = exact.front(groups)
    assert front is not None
    points = [(float(cost), float(price)) for cost, price in brute.front(groups)]
    assert list(zip(front.costs, front.prices, strict=True)) == points
    assert [(a.cost, a.price) for a in map(front.assignment, range(len(front)))] == points


@given(st.floats(1e-300, 1e3), st.floats(1e-300, 1e3), st.floats(0, 3e3))
def test_digits_beyond_the_eighteenth_never_break_a_budget(one: float, two: float, budget: float) -> None:
    groups = [
        Group(f"h.{i}", "rollout", "policy", (Option("FP16", 0.0, 9.0), Option(PAIRS[0], cost, 1.0)))
        for i, cost in enumerate((one, two))
    ]
    front = exact.front(groups, budget)
    assert front is not None
    chosen = front.assignment(len(front) - 1)
    assert sum(map(brute.exact, (o.cost for o in chosen.options))) <= brute.exact(budget)
    assert chosen.price <= float(brute.best(groups, budget * (1 - 1e-14))[0])


@settings(max_examples=40, deadline=None)
@given(group_lists(), budgets)
def test_highs_finds_that_price_and_keeps_the_budget(groups: list[Group], budget: float) -> None:
    found = solver.cheapest(groups, budget).assignment
    price, _ = brute.best(groups, budget)
    largest = sum(max(option.price for option in group.options) for group in groups)
    assert found.price - float(price) <= 2 * solver.TOLERANCE * largest
    assert math.isinf(budget) or sum(map(brute.exact, (o.cost for o in found.options))) <= brute.exact(budget)


def test_a_budget_that_is_met_to_the_last_digit_is_met() -> None:
    # In binary, 0.1 + 0.2 > 0.3.
    groups = [
        Group(f"h.{i}", "rollout", "policy", (Option("FP16", 0.0, 9.0), Option(PAIRS[0], cost, 1.0)))
        for i, cost in enumerate((0.1, 0.2))
    ]
    for found in (exact.front(groups, 0.3), exact.front(groups)):
        assert found is not None
        assert [o.format for o in found.assignment(len(found) - 1).options] == [PAIRS[0]] * 2
    assert [o.format for o in solver.cheapest(groups, 0.3).assignment.options] == [PAIRS[0]] * 2
    below = exact.front(groups, 0.29999999999999993)
    assert below is not None
    assert below.prices[-1] == 10.0
    assert solver.cheapest(groups, 0.29999999999999993).assignment.price == 10.0


def test_what_fits_no_budget_is_refused_by_both() -> None:
    groups = [Group("h.0", "rollout", "policy", (Option(PAIRS[0], 0.2, 1.0),))] * 2
    for solve in (exact.front, solver.cheapest):
        with pytest.raises(ValueError, match="fits the budget"):
            solve(groups, 0.3)
        with pytest.raises(ValueError, match="fits the budget"):
            solve(groups, 0.1)


def test_a_front_that_grows_too_long_is_given_up() -> None:
    groups = [
        Group(f"h.{i}", "rollout", "policy", (Option("FP16", 0.0, 2.0**i), Option(PAIRS[0], 2.0**i, 0.0)))
        for i in range(8)
    ]
    assert exact.front(groups, most=255) is None
    whole = exact.front(groups, most=256)
    assert whole is not None
    assert len(whole) == 256


def test_highs_prints_nothing_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    groups = [
        Group(f"h.{i}", "rollout", "policy", (Option("FP16", 0.0, 2.0 + i), Option(PAIRS[0], 0.1 * i, 1.0)))
        for i in range(20)
    ]
    solver.cheapest(groups, 1.0)
    assert capfd.readouterr().out == ""


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=6))
def test_whole_numbers_round_up_costs_and_down_budgets(values: list[float]) -> None:
    scale = Scale([value] for value in values)
    unit = brute.exact(1.0) / 10**scale.digits if scale.digits >= 0 else brute.exact(1.0) * 10**-scale.digits
    for value in values:
        assert 0 <= scale.up(value) * unit - brute.exact(value) < unit
        assert 0 <= brute.exact(value) - scale.down(value) * unit < unit
        assert abs(scale.near(value) * unit - brute.exact(value)) <= unit / 2

"""When each condition of a rule is met, and when not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from mx_trl.dashboard.rules import Rule, load_rules
from mx_trl.dashboard.watch import Alert, Watch

INF, NAN = math.inf, math.nan


def steps_of(rule: Rule, values: Sequence[float | None], name: str = "kl") -> list[int]:
    """The steps, from 1, at which a series raises an alert; None is a record without the metric."""
    return [alert.step for alert in alerts_of(rule, values, name)]


def alerts_of(rule: Rule, values: Sequence[float | None], name: str = "kl") -> list[Alert]:
    watch = Watch([rule])
    found = []
    for step, value in enumerate(values, start=1):
        found += [alert for _, alert in watch.check(step, {} if value is None else {name: value})]
    return found


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Rule("r", "kl", above=1.0), [0.5, 1.0, 1.1], [3]),
        (Rule("r", "kl", above=1.0, for_steps=3), [2, 2, 0, 2, 2, 2], [6]),
        (Rule("r", "kl", above=1.0, for_steps=2), [2, None, 2], [3]),
        (Rule("r", "kl", below=0.1), [0.1, 0.09], [2]),
        (Rule("r", "kl", above=1.0, silent_for=2), [2, 2, 2, 2, 2, 2, 2], [1, 4, 7]),
        (Rule("r", "kl", above=1.0, silent_for=0), [2, 2, 2], [1, 2, 3]),
        (Rule("r", "kl", above=1.0, after_step=3), [2, 2, 2], [3]),
        (Rule("r", "kl", below_start=0.5, needs=1), [2.0, 1.1, 0.9], [3]),
        (Rule("r", "kl", below_start=0.5, needs=3), [1.0, 2.0, 3.0, 1.1, 0.9], [5]),
        (Rule("r", "kl", above_median=10, needs=3), [1, 1, 1, 9, 11], [5]),
        (Rule("r", "kl", above_median=10, needs=3), [1, 1, 50], []),
        (Rule("r", "kl", above_median=10, at_least=100, needs=3), [1, 1, 1, 50, 101], [5]),
        (Rule("r", "kl", above=1.0), [NAN, INF, 2.0], [3]),
        (Rule("r", "entropy", above=1.0), [2, 2], []),
    ],
)
def test_a_condition_is_met_at_these_steps(rule: Rule, values: list[float | None], expected: list[int]) -> None:
    assert steps_of(rule, values) == expected


def test_a_share_or_a_multiple_of_less_than_nothing_is_not_judged() -> None:
    """Half of a reward of -1 lies above it, and twice such a median below: neither is an alarm."""
    assert steps_of(Rule("low", "kl", below_start=0.5, needs=2), [-1.0] * 9) == []
    assert steps_of(Rule("high", "kl", above_median=2.0, needs=2), [-1.0] * 5 + [-0.5]) == []
    assert steps_of(Rule("high", "kl", above_median=2.0, needs=2, at_least=0.0), [-1.0] * 5 + [0.5]) == [6]


def test_a_spike_is_not_part_of_what_is_usual() -> None:
    rule = Rule("r", "kl", above_median=3, needs=3, window=3, silent_for=0)
    assert steps_of(rule, [1, 1, 1, 5, 5, 1, 1, 5]) == [4, 5, 8]


def test_a_new_level_becomes_usual_after_a_window() -> None:
    rule = Rule("r", "kl", above_median=3, needs=3, window=3, silent_for=0)
    assert steps_of(rule, [1, 1, 1, 5, 5, 5, 5, 5, 5, 5]) == [4, 5, 6, 7]


def test_each_member_of_a_family_has_its_own_memory() -> None:
    watch = Watch([Rule("r", "grad_norm/*", above=1.0, for_steps=2)])
    assert not watch.check(1, {"grad_norm/policy": 2.0, "grad_norm/value": 0.0})
    assert not watch.check(2, {"grad_norm/policy": 0.0, "grad_norm/value": 2.0})
    [(_, alert)] = watch.check(3, {"grad_norm/policy": 2.0, "grad_norm/value": 2.0})
    assert alert.metric == "grad_norm/value"


def test_nan_and_infinity_are_found_wherever_they_stand() -> None:
    watch = Watch([Rule("r", "*", not_finite=True, silent_for=0)])
    assert not watch.check(1, {"kl": 1.0})
    [(_, alert)] = watch.check(2, {"kl": NAN, "reward": 1.0}, ["loss"])
    assert (alert.metric, alert.value, alert.bound) == ("kl, loss", None, None)
    assert "NaN or infinite" in alert.message


def test_a_message_says_what_was_seen_against_what_and_what_to_do() -> None:
    [alert] = alerts_of(Rule("r", "kl", above_median=2, needs=1, hint="Do this"), [1.5, 4.0])
    assert alert.message == "kl 4 is above 3, 2 times its running median. Do this"
    [alert] = alerts_of(Rule("r", "kl", below_start=0.5, needs=1, for_steps=2), [1.0, 0.1, 0.2])
    assert alert.message == "kl 0.2 is below 0.5, 0.5 of where it began for 2 records"
    assert alert.record()["action"] == ["log", "mark"]


def test_the_built_in_rules_are_silent_on_a_quiet_run_and_loud_on_a_bad_one() -> None:
    quiet = [{"kl_per_token": 0.1, "entropy": 2 - 0.02 * i, "reward_std": 0.2, "grad_norm/policy": 1 + i % 3}
             for i in range(40)]  # fmt: skip
    watch = Watch(load_rules())
    assert not [alert for step, record in enumerate(quiet) for alert in watch.check(step, record)]
    bad = {"kl_per_token": 9.0, "entropy": 0.01, "reward_std": 0.0, "grad_norm/policy": 500.0, "loss": NAN}
    found = {rule.name for step in range(40, 44) for rule, _ in watch.check(step, bad)}
    assert found == {
        "kl", "entropy_collapse", "reward_variance_zero", "reward_spread_collapse", "gradient_spike", "not_finite",
    }  # fmt: skip

"""Runs that go wrong raise the right alerts within a few steps; a healthy one, on a seed never used before, none.

``make alerts_series`` does the same with many seeds; docs/dashboard.md has its table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import load

SEED = 4711
"""Not among those by which the thresholds were chosen (docs/dashboard.md)."""

Run = Callable[[str, str, int], dict[str, int]]


@pytest.fixture(scope="module")
def series() -> ModuleType:
    return load("docs/tables/alerts_series.py")


@pytest.fixture
def run(series: ModuleType, embedded: Any, tmp_path: Path) -> Run:
    """``run("grpo", "rate", 6)``: ``{rule: first step}`` of the alerts of six steps."""

    def train(kind: str, case: str, steps: int) -> dict[str, int]:
        folder = series.train(kind, case, SEED, tmp_path / "run", embedded.policy.parent, steps)
        assert [record["step"] for record in series.lines(folder, "stability.jsonl")] == list(range(1, steps + 1))
        first: dict[str, int] = {}
        for alert in series.lines(folder, "alerts.jsonl"):
            first.setdefault(alert["rule"], alert["step"])
        return first

    return train


@pytest.mark.trl
def test_a_healthy_run_raises_no_alert(run: Run) -> None:
    assert run("grpo", "healthy", 10) == {}


@pytest.mark.trl
def test_a_learning_rate_a_hundred_times_too_large_is_noticed(run: Run) -> None:
    alerts = run("grpo", "rate", 6)
    assert {"entropy_collapse", "kl"} & set(alerts)
    assert min(alerts.values()) <= 5


@pytest.mark.trl("<1.13")
def test_it_is_noticed_in_ppo_too(run: Run) -> None:
    alerts = run("ppo", "rate", 5)
    assert {"kl", "entropy_collapse"} <= set(alerts)


@pytest.mark.trl
def test_a_reward_that_one_word_satisfies_is_noticed(run: Run) -> None:
    alerts = run("grpo", "hacked", 9)
    assert alerts["length_collapse"] <= 9


@pytest.mark.trl("<1.13")
def test_it_is_noticed_in_ppo_though_its_policy_is_still_near_the_reference(run: Run) -> None:
    alerts = run("ppo", "hacked", 12)
    assert alerts["reward_spread_collapse"] <= 12

"""Which steps are profiled, and which schedules are refused."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from mx_trl.profiler.errors import ProfilerError
from mx_trl.profiler.schedule import ACTIVE, Schedule


def active(schedule: Schedule, steps: int) -> list[int]:
    return [index for index in range(steps) if schedule.state(index) == ACTIVE]


@pytest.mark.parametrize(
    ("numbers", "steps"),
    [
        ((1, 1, 2, 1), [2, 3]),
        ((0, 0, 1, 1), [0]),
        ((2, 0, 1, 2), [2, 5]),
        ((0, 1, 2, 0), [1, 2, 4, 5, 7, 8, 10, 11]),
        ((1,), [2, 3]),
        (None, [2, 3]),
    ],
)
def test_active_steps(numbers: Any, steps: list[int]) -> None:
    assert active(Schedule.of(numbers), 12) == steps


@pytest.mark.parametrize("numbers", [(1, 1, 2, 2), (0, 0, 1, 0), (0, 2, 3, 1), (3, 0, 2, 2)])
def test_windows_open_and_close_once_around_each_run_of_active_steps(numbers: tuple[int, ...]) -> None:
    schedule = Schedule.of(numbers)
    open_, seen = False, []
    for index in range(20):
        if schedule.closes(index):
            assert open_
            open_ = False
        if schedule.opens(index):
            assert not open_
            open_ = True
        if open_ and schedule.state(index) == ACTIVE:
            seen.append(index)
        assert open_ or schedule.state(index) == "wait"
    assert seen == active(schedule, 20)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 0, 1, 1), "wait is -1, must be 0 or more"),
        ((0, -2, 1, 1), "warmup is -2"),
        ((0, 0, 0, 1), "active is 0, must be 1 or more; give wait, warm-up, active and repeat"),
        ((0, 0, 1, -1), "repeat is -1"),
        ((0, 0, 1.5, 1), "active is 1.5"),
        ((1, 1, 1, 1, 1), "has 5 numbers"),
        ((), "has 0 numbers"),
    ],
)
def test_impossible_schedules_are_refused(numbers: Any, message: str) -> None:
    with pytest.raises(ProfilerError, match=message):
        Schedule.of(numbers)


def test_a_run_that_ends_before_the_first_profiled_step_is_refused() -> None:
    Schedule.of((1, 1, 2, 1)).check(3)
    with pytest.raises(
        ProfilerError, match=r"comes after 2 \(wait 1, warm-up 1\), but this run has 2 steps: lower wait"
    ):
        Schedule.of((1, 1, 2, 1)).check(2)

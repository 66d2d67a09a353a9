"""Phases are process-global; explicit pushes win over what the grad mode implies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from mx_plugin.execution.phases import PhaseTracker


def recorded(tracker: PhaseTracker) -> list[str]:
    seen: list[str] = []
    tracker.subscribe(seen.append)
    return seen


def test_gradients_on_means_gradient_and_off_means_reward() -> None:
    tracker = PhaseTracker()
    seen = recorded(tracker)
    tracker.saw_forward(True)
    tracker.saw_forward(False)
    assert seen == ["gradient", "reward"]


def test_a_pushed_phase_wins_over_the_grad_mode() -> None:
    tracker = PhaseTracker()
    with tracker.pushed("rollout"):
        tracker.saw_forward(False)
        assert tracker.phase == "rollout"
        tracker.saw_forward(True)
        assert tracker.phase == "rollout"
    assert tracker.phase == "other"


def test_evaluation_qualifies_every_phase_but_other() -> None:
    tracker = PhaseTracker()
    seen = recorded(tracker)
    with tracker.evaluating():
        with tracker.pushed("rollout"):
            pass
        tracker.saw_forward(False)
    tracker.saw_forward(False)
    assert seen == ["eval/rollout", "other", "eval/reward", "other", "reward"]


def test_leaving_a_phase_by_an_exception_leaves_the_phase() -> None:
    tracker = PhaseTracker()
    try:
        with tracker.pushed("rollout"):
            raise RuntimeError
    except RuntimeError:
        pass
    assert tracker.phase == "other"


@pytest.mark.parametrize("enter", [lambda tracker: tracker.pushed("rollout"), lambda tracker: tracker.evaluating()])
def test_a_listener_that_raises_at_the_entry_leaves_no_phase_behind(enter: Callable[[PhaseTracker], Any]) -> None:
    """A provider or backend may fail when it is asked; the tracker outlives the run."""
    tracker = PhaseTracker()
    tracker.saw_forward(True)

    def fail_once(phase: str) -> None:
        tracker.unsubscribe(fail_once)
        raise OSError(phase)

    tracker.subscribe(lambda phase: None)
    tracker.subscribe(fail_once)
    with pytest.raises(OSError), enter(tracker):
        pass
    tracker.saw_forward(False)
    assert tracker.phase == "reward"


def test_another_thread_sees_the_phase() -> None:
    tracker = PhaseTracker()
    seen: list[str] = []
    with tracker.pushed("rollout"):
        thread = threading.Thread(target=lambda: seen.append(tracker.phase))
        thread.start()
        thread.join()
    assert seen == ["rollout"]


def test_staying_in_a_phase_tells_nobody() -> None:
    tracker = PhaseTracker()
    seen = recorded(tracker)
    for _ in range(3):
        tracker.saw_forward(True)
    assert seen == ["gradient"]


def test_after_rest_the_next_call_enters_again() -> None:
    tracker = PhaseTracker()
    seen = recorded(tracker)
    tracker.saw_forward(True)
    tracker.rest()
    assert tracker.grad is None
    tracker.saw_forward(True)
    assert seen == ["gradient", "other", "gradient"]


def test_one_that_takes_the_time_may_be_told_before_those_who_work_at_the_entry() -> None:
    tracker = PhaseTracker()
    told: list[str] = []
    tracker.subscribe(lambda phase: told.append(f"engine {phase}"))
    tracker.subscribe(lambda phase: told.append(f"clock {phase}"), first=True)
    with tracker.pushed("rollout"):
        pass
    assert told == ["clock rollout", "engine rollout", "clock other", "engine other"]

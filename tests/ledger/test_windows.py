"""Windows partition the time between start and stop; meters and work belong to the window they fell into."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.errors import LedgerError
from mx_plugin.interfaces import Measurement, Meter, Work
from mx_plugin.ledger import ALL, EnergyRow, Ledger

FORWARD = Work("policy", "MXFP4/MXFP8", "float32", macs=1000, weight_bytes=64, activation_bytes=32, kv_bytes=4)


def seconds(rows: list[EnergyRow]) -> dict[str, float]:
    """Seconds by phase."""
    return {row.phase: row.seconds for row in rows if row.seconds is not None}


def test_seconds_go_to_the_phase_in_which_they_passed(clock, executed):
    ledger = Ledger([], executed, clock)
    ledger.start()
    clock.passes(1.0)
    ledger.switch("rollout")
    clock.passes(4.0)
    ledger.switch("gradient")
    clock.passes(2.0)
    ledger.switch("rollout")
    clock.passes(8.0)
    assert seconds(ledger.stop(1)) == {"other": 1.0, "rollout": 12.0, "gradient": 2.0}


@given(st.lists(st.tuples(st.sampled_from(["rollout", "reward", "gradient", "other"]), st.integers(0, 2**20))))
def test_all_seconds_add_up_to_exactly_stop_minus_start(moves):
    now = [0.0]
    ledger = Ledger([], lambda: [], lambda: now[0])
    ledger.start()
    rows = []
    for step, (phase, passed) in enumerate(moves):
        now[0] += passed / 1024
        ledger.switch(phase)
        if step % 3 == 2:
            rows += ledger.step_end(step)
    now[0] += 0.5
    rows += ledger.stop(len(moves))
    assert sum(row.seconds for row in rows if row.seconds is not None) == now[0]


def test_with_the_real_clock_the_windows_also_add_up_to_the_whole():
    readings = []

    def clock() -> float:
        readings.append(time.perf_counter())
        return readings[-1]

    ledger = Ledger([], lambda: [], clock)
    ledger.start()
    rows = []
    for step, phase in enumerate(itertools.islice(itertools.cycle(["rollout", "reward", "gradient"]), 300)):
        ledger.switch(phase)
        if step % 10 == 9:
            rows += ledger.step_end(step)
    rows += ledger.stop(300)
    whole = readings[-1] - readings[0]
    assert sum(row.seconds for row in rows if row.seconds is not None) == pytest.approx(whole, rel=1e-9)


def test_the_clock_is_read_once_per_boundary_so_that_nothing_falls_between_windows(executed):
    readings = itertools.count()
    ledger = Ledger([], executed, lambda: float(next(readings)))
    ledger.start()
    ledger.switch("rollout")
    ledger.step_end(1)
    ledger.stop(2)
    assert next(readings) == 4


def test_a_step_end_returns_the_rows_of_that_step_and_stays_in_the_phase(clock, executed):
    ledger = Ledger([], executed, clock)
    ledger.start("gradient")
    clock.passes(1.0)
    first = ledger.step_end(1)
    assert ledger.phase == "gradient"
    clock.passes(3.0)
    second = ledger.stop(2)
    assert [(row.step, row.seconds) for row in first + second] == [(1, 1.0), (2, 3.0)]
    assert ledger.phase is None


def test_switching_to_the_phase_in_force_opens_no_new_window(clock, executed, make_counter):
    counter = make_counter()
    ledger = Ledger([counter], executed, clock)
    ledger.start("rollout")
    ledger.switch("rollout")
    assert counter.calls == [("begin", "rollout")]


def test_outside_start_and_stop_a_switch_meters_nothing(clock, executed, make_counter):
    counter = make_counter()
    ledger = Ledger([counter], executed, clock)
    ledger.switch("rollout")
    assert not ledger.running and counter.calls == []
    assert ledger.stop(0) == []


def test_starting_twice_is_an_error_that_says_to_stop_first(clock, executed):
    ledger = Ledger([], executed, clock)
    ledger.start()
    with pytest.raises(LedgerError, match="call stop"):
        ledger.start()


def test_a_step_that_ends_before_start_is_an_error(clock, executed):
    with pytest.raises(LedgerError, match="call start"):
        Ledger([], executed, clock).step_end(1)


def test_work_done_before_start_belongs_to_no_window(clock, executed):
    ledger = Ledger([], executed, clock)
    executed.add(FORWARD)
    ledger.start()
    assert [row.role for row in ledger.stop(0)] == [ALL]


def test_work_of_one_role_format_and_dtype_is_one_row_over_all_windows_of_the_phase(clock, executed):
    ledger = Ledger([], executed, clock)
    ledger.start("rollout")
    executed.add(FORWARD)
    ledger.switch("reward")
    executed.add(Work("value", "MXFP8/MXFP8", "float32", macs=7))
    ledger.switch("rollout")
    executed.add(FORWARD, Work("policy", "FP16", "float32", macs=5))
    rows = [row for row in ledger.stop(3) if row.role != ALL]
    assert [(row.phase, row.role, row.format, row.macs, row.bytes) for row in rows] == [
        ("rollout", "policy", "FP16", 5, 0),
        ("rollout", "policy", "MXFP4/MXFP8", 2000, 200),
        ("reward", "value", "MXFP8/MXFP8", 7, 0),
    ]
    assert all(row.seconds is None and row.joules is None and row.estimated is None for row in rows)


def test_measured_joules_stand_in_the_row_of_the_whole_phase(clock, executed, make_counter):
    ledger = Ledger([make_counter(watts=10.0)], executed, clock)
    ledger.start("rollout")
    executed.add(FORWARD)
    clock.passes(2.0)
    phase, work = ledger.stop(1)
    assert (phase.role, phase.format, phase.seconds, phase.joules) == (ALL, ALL, 2.0, 20.0)
    assert (phase.source, phase.estimated, phase.macs, phase.bytes) == ("counter", False, None, None)
    assert (work.macs, work.joules, work.seconds) == (1000, None, None)


def test_joules_per_domain_are_kept_beside_the_rows(clock, executed, make_counter):
    ledger = Ledger([make_counter(watts=10.0)], executed, clock)
    ledger.start("rollout")
    clock.passes(2.0)
    ledger.switch("reward")
    clock.passes(1.0)
    ledger.stop(1)
    assert ledger.domains == {"counter": {"package:0": 30.0}}


def test_two_measuring_meters_get_a_row_each_and_the_seconds_stand_once(clock, executed, make_counter):
    ledger = Ledger([make_counter(name="a"), make_counter(name="b", watts=1.0)], executed, clock)
    ledger.start("rollout")
    clock.passes(2.0)
    rows = ledger.stop(1)
    assert [(row.source, row.seconds, row.joules) for row in rows] == [("a", 2.0, 20.0), ("b", None, 2.0)]


def test_two_estimates_get_a_row_each_and_the_macs_stand_once(clock, executed, make_estimator):
    ledger = Ledger([make_estimator("here", 1.0), make_estimator("there", 2.0)], executed, clock)
    ledger.start("rollout")
    executed.add(FORWARD)
    _, here, there = ledger.stop(1)
    assert (here.source, here.macs, here.bytes, here.joules, here.estimated) == ("here", 1000, 100, 1000.0, True)
    assert (there.source, there.macs, there.bytes, there.joules, there.estimated) == ("there", None, None, 2000.0, True)


def test_an_estimating_meter_adds_nothing_to_the_row_of_the_whole_phase(clock, executed, make_estimator):
    ledger = Ledger([make_estimator("here", 1.0)], executed, clock)
    ledger.start("rollout")
    clock.passes(1.0)
    (row,) = ledger.stop(1)
    assert (row.seconds, row.joules, row.source, row.estimated) == (1.0, None, "", None)


@pytest.mark.parametrize("where", ["begin", "end"])
def test_a_meter_that_raises_reads_unknown_with_the_reason_and_is_logged_once(
    clock, executed, make_breaking, caplog, where
):
    meter = make_breaking(where, failing=[1, 3])
    ledger = Ledger([meter], executed, clock)
    with caplog.at_level(logging.WARNING):
        ledger.start("rollout")
        for phase in ("reward", "gradient", "other", "rollout"):
            clock.passes(1.0)
            ledger.switch(phase)
        joules = {row.phase: row.joules for row in ledger.stop(1)}
    assert joules == {"rollout": 10.0, "reward": None, "gradient": 10.0, "other": None}
    assert f"{where}_window failed: OSError: the counter went away" in ledger.reasons["breaking"]
    assert len([r for r in caplog.records if "the counter went away" in r.getMessage()]) == 1


def test_a_phase_of_which_one_window_is_unknown_is_unknown_and_not_a_part_of_the_truth(clock, executed, make_breaking):
    ledger = Ledger([make_breaking("end", failing=[2])], executed, clock)
    ledger.start("rollout")
    for phase in ("other", "rollout", "other"):
        clock.passes(1.0)
        ledger.switch(phase)
    rows = ledger.stop(1)
    assert {row.phase: row.joules for row in rows} == {"rollout": None, "other": 10.0}
    assert all(row.estimated is None for row in rows if row.joules is None)


def test_end_window_is_called_exactly_when_begin_window_succeeded(clock, executed, make_breaking):
    meter = make_breaking("begin", failing=[1])
    ledger = Ledger([meter], executed, clock)
    ledger.start("rollout")
    ledger.switch("reward")
    ledger.switch("gradient")
    ledger.stop(1)
    assert meter.calls == [
        ("begin", "rollout"),
        ("end", "rollout"),
        ("begin", "reward"),
        ("begin", "gradient"),
        ("end", "gradient"),
    ]


def test_begin_and_end_match_when_training_raises_within_a_window(clock, executed, make_counter):
    counter = make_counter()
    ledger = Ledger([counter], executed, clock)
    with pytest.raises(ZeroDivisionError):
        ledger.start("rollout")
        try:
            ledger.switch("gradient")
            clock.passes(3.0)
            _ = 1 / 0
        finally:
            rows = ledger.stop(7)
    assert [name for name, _ in counter.calls] == ["begin", "end"] * 2
    assert seconds(rows) == {"rollout": 0.0, "gradient": 3.0}
    assert ledger.stop(7) == []


def test_begin_and_end_match_when_collecting_work_raises(clock, make_counter):
    counter = make_counter()
    broken = [False]

    def collect() -> list[Work]:
        if broken[0]:
            raise RuntimeError("the engine broke")
        return []

    ledger = Ledger([counter], collect, clock)
    ledger.start("rollout")
    clock.passes(1.0)
    broken[0] = True
    with pytest.raises(RuntimeError, match="the engine broke"):
        ledger.switch("reward")
    broken[0] = False
    clock.passes(2.0)
    assert seconds(ledger.stop(1)) == {"rollout": 1.0, "reward": 2.0}
    assert [name for name, _ in counter.calls] == ["begin", "end"] * 2


def test_a_window_shorter_than_the_counters_tick_hands_its_joules_to_the_next(clock, executed, make_counter):
    ledger = Ledger([make_counter(watts=10.0, tick=25.0)], executed, clock)
    ledger.start("rollout")
    clock.passes(1.0)
    ledger.switch("reward")
    clock.passes(4.0)
    rows = ledger.stop(1)
    assert {row.phase: row.joules for row in rows} == {"rollout": None, "reward": 50.0}
    assert ledger.reasons == {"counter": "the counter did not tick"}


def test_a_short_window_beside_a_long_one_of_the_same_phase_does_not_make_it_unknown(clock, executed, make_counter):
    ledger = Ledger([make_counter(watts=10.0, tick=25.0)], executed, clock)
    ledger.start("rollout")
    clock.passes(1.0)
    ledger.switch("reward")
    clock.passes(4.0)
    ledger.switch("rollout")
    clock.passes(5.0)
    assert {row.phase: row.joules for row in ledger.stop(1)} == {"rollout": 50.0, "reward": 50.0}


@pytest.mark.parametrize("watts", [-10.0, float("nan"), float("inf")])
def test_joules_that_are_no_energy_read_unknown(clock, executed, make_counter, watts):
    ledger = Ledger([make_counter(watts=watts)], executed, clock)
    ledger.start("rollout")
    clock.passes(1.0)
    (row,) = ledger.stop(1)
    assert row.joules is None and "not an energy" in ledger.reasons["counter"]


@pytest.mark.parametrize("answer", [None, 3.0, Measurement("much", "odd")])  # type: ignore[arg-type]
def test_a_meter_that_answers_with_something_else_never_reaches_the_training_loop(clock, executed, answer):
    class Odd(Meter):
        name = "odd"

        def end_window(self, name):
            return answer

        def estimate(self, work):
            return answer if answer is not None else 3.0

        def describe(self):
            raise OSError("no table")

    ledger = Ledger([Odd()], executed, clock)
    ledger.start("rollout")
    executed.add(Work("policy", "MXFP4/MXFP8", "float32", macs=5))
    rows = ledger.stop(1)
    assert [row.joules for row in rows] == [None, None]
    assert "odd" in ledger.reasons["odd"]
    [described] = ledger.describe_meters()
    assert described["meter"] == "odd" and "no table" in described["why"]


def test_switches_from_several_threads_lose_no_time_and_keep_the_pairs(executed, make_counter):
    readings: list[float] = []

    def clock() -> float:
        readings.append(time.perf_counter())
        return readings[-1]

    counter = make_counter()
    ledger = Ledger([counter], executed, clock)
    ledger.start()

    def wander(name: str) -> None:
        for i in range(200):
            ledger.switch(f"{name}{i % 2}")

    threads = [threading.Thread(target=wander, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = ledger.stop(1)
    assert [name for name, _ in counter.calls] == ["begin", "end"] * (len(counter.calls) // 2)
    assert sum(seconds(rows).values()) == pytest.approx(readings[-1] - readings[0], rel=1e-9)


def test_closing_ends_an_open_window_and_closes_the_meters(clock, executed, make_counter):
    counter = make_counter()
    closed = []
    counter.close = lambda: closed.append(True)
    ledger = Ledger([counter], executed, clock)
    ledger.start()
    ledger.close()
    assert [name for name, _ in counter.calls] == ["begin", "end"] and closed == [True]

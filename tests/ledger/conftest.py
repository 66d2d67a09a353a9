"""A clock that is moved by hand, and small real meters: a counter, one that breaks, one that estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from mx_plugin.interfaces import Measurement, Meter, Work


class HandClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Counter(Meter):
    """A cumulative energy counter of ``watts``, read at both ends of a window, that ticks every ``tick`` joules."""

    name = "counter"

    def __init__(self, clock: Callable[[], float], watts: float = 10.0, tick: float = 0.0, name: str = "counter"):
        self.clock, self.watts, self.tick, self.name = clock, watts, tick, name
        self.calls: list[tuple[str, str]] = []
        self.at = 0.0

    def read(self) -> float:
        joules = self.watts * self.clock()
        return joules if not self.tick else joules // self.tick * self.tick

    def begin_window(self, name: str) -> None:
        self.calls.append(("begin", name))
        self.at = self.read()

    def end_window(self, name: str) -> Measurement:
        self.calls.append(("end", name))
        joules = self.read() - self.at
        if self.tick and joules == 0.0:
            return Measurement(None, self.name, updates=0, why="the counter did not tick")
        return Measurement(joules, self.name, {"package:0": joules})


class Breaking(Counter):
    """A counter whose ``begin_window`` or ``end_window`` raises in the calls counted from 0 in ``failing``."""

    def __init__(self, clock: Callable[[], float], where: str, failing: Iterable[int]):
        super().__init__(clock, name="breaking")
        self.where, self.failing = where, set(failing)
        self.counts = {"begin": 0, "end": 0}

    def _perhaps(self, where: str) -> None:
        number = self.counts[where]
        self.counts[where] += 1
        if where == self.where and number in self.failing:
            raise OSError("the counter went away")

    def begin_window(self, name: str) -> None:
        super().begin_window(name)
        self._perhaps("begin")

    def end_window(self, name: str) -> Measurement:
        measured = super().end_window(name)
        self._perhaps("end")
        return measured


class PerMac(Meter):
    """Estimates ``joules`` per MAC and measures nothing."""

    def __init__(self, source: str, joules: float):
        self.name, self.joules = source, joules

    def end_window(self, name: str) -> Measurement:
        return Measurement(None, self.name, estimated=True, why="an estimate")

    def estimate(self, work: Work) -> Measurement:
        return Measurement(self.joules * work.macs, self.name, estimated=True)


class Executed:
    """Work waiting to be collected, as an engine keeps it."""

    def __init__(self) -> None:
        self.waiting: list[Work] = []

    def __call__(self) -> list[Work]:
        works, self.waiting = self.waiting, []
        return works

    def add(self, *works: Work) -> None:
        self.waiting += works


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def executed() -> Executed:
    return Executed()


@pytest.fixture
def make_counter(clock: HandClock) -> Callable[..., Counter]:
    return lambda **options: Counter(clock, **options)


@pytest.fixture
def make_breaking(clock: HandClock) -> Callable[..., Breaking]:
    return lambda where, failing: Breaking(clock, where, failing)


@pytest.fixture
def make_estimator() -> Callable[[str, float], PerMac]:
    return PerMac

"""Broken meters: each does one thing wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mx_plugin.interfaces import Measurement, Meter, Work
from tests.conformance.broken.collection import Collection

METERS = Collection()
WATTS = 10.0


class Measuring(Meter):
    """Nothing is wrong with this one: ten watts, all the time."""

    name = "ten-watts"

    def __init__(self) -> None:
        self.began: float | None = None
        self.windows = self.closed = 0

    def begin_window(self, name: str) -> None:
        self.began = time.perf_counter()

    def end_window(self, name: str) -> Measurement:
        assert self.began is not None
        self.windows += 1
        joules, self.began = WATTS * (time.perf_counter() - self.began), None
        return self.told(joules)

    def told(self, joules: float) -> Measurement:
        return Measurement(joules, self.name, {"core": joules})

    def close(self) -> None:
        self.closed += 1


class Estimating(Meter):
    """Nor with this one: a picojoule per MAC."""

    name = "a-picojoule"

    def end_window(self, name: str) -> Measurement:
        return Measurement(None, self.name, estimated=True, why="an estimate, see rows")

    def estimate(self, work: Work) -> Measurement | None:
        if work.dtype != "float32":
            return Measurement(None, self.name, estimated=True, why=f"no energy of {work.dtype} is known")
        return Measurement(self.joules(work), self.name, estimated=True)

    def joules(self, work: Work) -> float:
        return work.macs * 1e-12


@METERS.caught_by("loads-is_a_meter")
class NoMeter:
    def __init__(self) -> None:
        self._inner = Measuring()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@METERS.caught_by("loads-interface_version")
class OfAnotherMajor(Measuring):
    interface_version = (2, 0)


@METERS.caught_by("loads-says_its_name")
class Nameless(Measuring):
    name = "?"

    def told(self, joules: float) -> Measurement:
        return Measurement(joules, "some meter")


@METERS.caught_by("loads-describes_itself")
class DescribesAnObject(Measuring):
    def describe(self) -> Mapping[str, Any]:
        return {"device": object()}


@METERS.caught_by("loads-declares_its_scope")
class OfNoScope(Measuring):
    scope = "rank"


@METERS.caught_by("reads-names_its_source")
class WithoutSource(Measuring):
    def told(self, joules: float) -> Measurement:
        return Measurement(joules, "")


@METERS.caught_by("reads-none_says_why")
class NoneWithoutWhy(Measuring):
    def told(self, joules: float) -> Measurement:
        return Measurement(None, self.name)


@METERS.caught_by("reads-none_is_not_zero")
class ZeroInsteadOfNone(Measuring):
    def told(self, joules: float) -> Measurement:
        return Measurement(0.0, self.name)


@METERS.caught_by("reads-joules_are_an_energy")
class NegativeJoules(Measuring):
    def told(self, joules: float) -> Measurement:
        return Measurement(-1.0, self.name)


@METERS.caught_by("reads-domains_add_up")
class CountsADomainTwice(Measuring):
    def told(self, joules: float) -> Measurement:
        return Measurement(joules, self.name, {"core": joules, "package": joules})


@METERS.caught_by("reads-estimates_are_marked")
class PassesOffAnEstimate(Estimating):
    def end_window(self, name: str) -> Measurement:
        return Measurement(1.0, self.name)


@METERS.caught_by("windows-follow_each_other")
class TenWindows(Measuring):
    def begin_window(self, name: str) -> None:
        super().begin_window(name)
        if self.windows == 10:
            raise IndexError("no more windows")


@METERS.caught_by("windows-hold_their_own_joules")
class NeverStartsAnew(Measuring):
    total = 0.0

    def told(self, joules: float) -> Measurement:
        self.total += joules
        return Measurement(self.total, self.name)


@METERS.caught_by("windows-may_be_left_open")
class RefusesToBeginAgain(Measuring):
    def begin_window(self, name: str) -> None:
        if self.began is not None:
            raise RuntimeError("a window is open")
        super().begin_window(name)


@METERS.caught_by("estimates-marked")
class UnmarkedEstimate(Estimating):
    def estimate(self, work: Work) -> Measurement | None:
        known = super().estimate(work)
        assert known is not None
        return Measurement(known.joules, known.source, why=known.why)


@METERS.caught_by("estimates-unknown_is_none")
class UnknownWorkIsFree(Estimating):
    def estimate(self, work: Work) -> Measurement | None:
        found = super().estimate(work)
        assert found is not None
        return found if found.joules else Measurement(0.0, self.name, estimated=True)


@METERS.caught_by("estimates-are_energies")
class NegativeEstimate(Estimating):
    def joules(self, work: Work) -> float:
        return super().joules(work) - 1.0


@METERS.caught_by("estimates-grow_with_work")
class FlatRate(Estimating):
    def joules(self, work: Work) -> float:
        return 1.0


@METERS.caught_by("closes-twice")
class ClosesOnce(Measuring):
    def close(self) -> None:
        super().close()
        if self.closed > 1:
            raise RuntimeError("closed already")


@METERS.caught_by("closes-in_a_window")
class ClosesBetweenWindows(Measuring):
    def close(self) -> None:
        if self.began is not None:
            raise RuntimeError("a window is open")

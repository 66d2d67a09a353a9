"""Level ``trl`` of a meter: it is read in the windows of a real training, some of them a millisecond long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mx_plugin.interfaces import Measurement, Meter, Work
from mx_plugin.testing import METER, Level, Suite, demand
from mx_plugin.testing.meter import SAY_NONE, MeterTrial

from .training import NAME, Trained, need_trl, train, unless_it_fails

FORMATS = "C"


class _Recorded(Meter):
    """The meter, and what it said of each window: the ledger forgives a meter that raises, a check does not."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.name, self.scope, self.interface_version = meter.name, meter.scope, meter.interface_version
        self.windows: list[tuple[str, Measurement]] = []
        self.raised: list[str] = []

    def begin_window(self, name: str) -> None:
        self._noting(f"begin_window({name!r})", lambda: self._meter.begin_window(name))

    def end_window(self, name: str) -> Measurement:
        found: Measurement = self._noting(f"end_window({name!r})", lambda: self._meter.end_window(name))
        self.windows.append((name, found))
        return found

    def estimate(self, work: Work) -> Measurement | None:
        found: Measurement | None = self._noting(f"estimate({work})", lambda: self._meter.estimate(work))
        return found

    def _noting(self, call: str, function: Any) -> Any:
        try:
            return function()
        except Exception as error:
            self.raised.append(f"{call} raised {type(error).__name__}: {error}")
            raise

    def describe(self) -> Mapping[str, Any]:
        return self._meter.describe()

    def close(self) -> None:
        self._meter.close()


class MeterTraining(MeterTrial):
    """``trained()``: two steps under policy C, read by the meter; ``recorded`` is then what it said."""

    def trained(self, policy: str = FORMATS) -> Trained:
        need_trl()
        return train(self._record, policy, meters=[NAME])

    def _record(self) -> Meter:
        self.recorded = _Recorded(self.fresh())
        return self.recorded


LEVEL = Level("meter", "trl", "it is read while TRL's GRPO takes two steps", MeterTraining)


@LEVEL.check
def two_steps(trial: MeterTraining) -> None:
    """It takes every window of a training, ``other`` and ``eval/...`` among them, and every row of work."""
    trial.trained().demand_finite()
    raised = trial.recorded.raised
    demand(not raised, raised[0] if raised else "", "windows may have any name")
    names = {name for name, _ in trial.recorded.windows}
    demand(names >= {"rollout", "reward", "gradient", "other"}, f"it was read in {sorted(names)} only")


@LEVEL.check
def joules(trial: MeterTraining) -> None:
    """In windows as short as training has them, joules are an energy above 0, or None with the reason."""
    trained = unless_it_fails(trial.trained)
    for name, found in trial.recorded.windows:
        if found.joules is None:
            demand(found.why.strip(), f"a window {name!r}: joules is None and why is empty", "say what is missing")
        else:
            good = math.isfinite(found.joules) and found.joules > 0
            demand(good, f"a window {name!r} took {found.joules!r} J", f"below the resolution: updates=0; {SAY_NONE}")
    for row in trained.rows:
        if row.macs and row.joules is not None:
            good = math.isfinite(row.joules) and row.joules > 0
            demand(good, f"{row.macs} MACs in {row.format} are estimated as {row.joules!r} J", SAY_NONE)


@LEVEL.check
def training_alone(trial: MeterTraining) -> None:
    """Weights and global random numbers are those that TRL alone leaves, bit for bit."""
    unless_it_fails(lambda: trial.trained("A")).demand_as_trl_alone()


METER_TRAINING = Suite("meter", (LEVEL,), METER.names, METER.open)

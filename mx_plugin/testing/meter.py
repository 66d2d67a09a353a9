"""What is demanded of an energy meter. None is not zero, an estimate says so, and a window holds its own joules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .. import plugins
from ..interfaces import Measurement, Meter, Work
from .check import Level, Suite
from .fault import Fault, NotApplicable, demand
from .loads import demand_kind, demand_name, demand_plain, demand_version
from .trial import Trial

SHORT_S, LONG_S = 0.05, 0.5
SAY_NONE = "a meter that cannot know says joules=None, and why"

WORK = Work("policy", "MXFP8/MXFP8", "float32", macs=10**9, weight_bytes=10**7, activation_bytes=10**6)


class MeterTrial(Trial):
    """``window``: one window of a fresh or a given meter, in which this process works."""

    plugin: Meter

    def window(self, name: str = "rollout", seconds: float = SHORT_S) -> Measurement:
        """What the meter says of a window of about that length."""
        self.plugin.begin_window(name)
        work_for(seconds)
        found = self.plugin.end_window(name)
        if not isinstance(found, Measurement):
            raise Fault(f"end_window returned a {type(found).__name__}, not a Measurement")
        return found

    def estimate(self, work: Work = WORK) -> Measurement:
        """The meter's estimate of ``work``.

        Raises:
            NotApplicable: it only measures.
        """
        found = self.plugin.estimate(work)
        if found is None:
            raise NotApplicable("this meter only measures: estimate returned None")
        if not isinstance(found, Measurement):
            raise Fault(f"estimate returned a {type(found).__name__}, not a Measurement")
        return found


def work_for(seconds: float) -> None:
    """Keep a core busy, so that there is energy to be measured."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(i * i for i in range(500))


LOADS = Level("meter", "loads", "it is a meter and says what it is", MeterTrial)
READS = Level("meter", "reads", "a window's joules are known, or None with the reason", MeterTrial)
WINDOWS = Level("meter", "windows", "each window holds its own joules", MeterTrial)
ESTIMATES = Level("meter", "estimates", "what is estimated is marked, and never nothing", MeterTrial)
CLOSES = Level("meter", "closes", "it can be closed at any time", MeterTrial)


# ---------------------------------------------------------------------------- loads


@LOADS.check
def is_a_meter(trial: MeterTrial) -> None:
    """make() returns a mx_plugin.interfaces.Meter."""
    demand_kind(trial.plugin, Meter)


@LOADS.check
def interface_version(trial: MeterTrial) -> None:
    """It was written for our major interface version."""
    demand_version(trial.plugin)


@LOADS.check
def says_its_name(trial: MeterTrial) -> None:
    """It has a name."""
    demand_name(trial.plugin)


@LOADS.check
def describes_itself(trial: MeterTrial) -> None:
    """describe() is plain data, for config.json."""
    demand_plain(trial.plugin.describe(), "describe()")


@LOADS.check
def declares_its_scope(trial: MeterTrial) -> None:
    """scope is process or machine: who may add up the ranks' joules."""
    scope = trial.plugin.scope
    demand(scope in ("process", "machine"), f"scope is {scope!r}; it should be 'process' or 'machine'")


# ---------------------------------------------------------------------------- reads


@READS.check
def names_its_source(trial: MeterTrial) -> None:
    """A measurement says where its joules come from."""
    source = trial.window().source
    demand(isinstance(source, str) and source.strip(), f"the source of a window is {source!r}; it should be a word")


@READS.check
def none_says_why(trial: MeterTrial) -> None:
    """joules=None comes with the reason."""
    found = trial.window()
    demand(found.joules is not None or found.why.strip(), "joules is None and why is empty", "say what is missing")


@READS.check
def none_is_not_zero(trial: MeterTrial) -> None:
    """A window in which a core was busy did not take 0 J: what is unknown is None."""
    found = trial.window()
    zero = found.joules == 0 or any(joules == 0 for joules in found.domains.values())
    demand(
        not zero, f"joules is {found.joules!r}, domains {dict(found.domains)!r} in a window of {SHORT_S} s", SAY_NONE
    )


@READS.check
def joules_are_an_energy(trial: MeterTrial) -> None:
    """Joules are finite and not negative."""
    found = trial.window()
    for what, joules in (("joules", found.joules), *found.domains.items()):
        demand(joules is None or _is_energy(joules), f"{what} is {joules!r}, which is not an energy", SAY_NONE)


@READS.check
def domains_add_up(trial: MeterTrial) -> None:
    """The domains, where there are any, add up to the window's joules."""
    found = trial.window()
    if found.joules is None or not found.domains:
        raise NotApplicable("no joules here that domains could add up to")
    total = sum(found.domains.values())
    close = math.isclose(total, found.joules, rel_tol=1e-6)
    demand(close, f"joules is {found.joules!r}, its domains {dict(found.domains)!r} add up to {total!r}")


@READS.check
def estimates_are_marked(trial: MeterTrial) -> None:
    """A meter that estimates rows of work does not pass its windows' joules off as measured."""
    trial.estimate()
    found = trial.window()
    told = found.joules is None or found.estimated
    demand(told, f"a window of {found.joules!r} J is not marked estimated", "set estimated=True")


# ---------------------------------------------------------------------------- windows


@WINDOWS.check
def follow_each_other(trial: MeterTrial) -> None:
    """Many windows, one after the other, under the same names and others."""
    for number in range(20):
        trial.window(("rollout", "reward", "gradient")[number % 3], 0.001)


@WINDOWS.check
def hold_their_own_joules(trial: MeterTrial) -> None:
    """A short window after a long one does not hold the long one's joules too."""
    long, short = trial.window("rollout", LONG_S).joules, trial.window("reward", SHORT_S).joules
    if long is None or short is None:
        raise NotApplicable("this meter cannot know here: joules is None")
    demand(
        short <= long,
        f"a window of {SHORT_S} s took {short:.4g} J, the one of {LONG_S} s before it {long:.4g} J",
        "return the difference since begin_window, not a total",
    )


@WINDOWS.check
def may_be_left_open(trial: MeterTrial) -> None:
    """A window that was never ended, because training failed in it, does not spoil the next."""
    trial.plugin.begin_window("rollout")
    work_for(0.001)
    trial.window("rollout", 0.001)


# ---------------------------------------------------------------------------- estimates


@ESTIMATES.check
def marked(trial: MeterTrial) -> None:
    """An estimate has estimated=True."""
    demand(trial.estimate().estimated, "an estimate is not marked", "set estimated=True: it is never added to joules")


@ESTIMATES.check
def unknown_is_none(trial: MeterTrial) -> None:
    """Work in a dtype that the meter does not know is None with the reason; no work that was done is 0 J."""
    strange = Work("policy", "MXFP8/MXFP8", "complex17", macs=10**9)
    for work in (WORK, strange):
        found = trial.estimate(work)
        if found.joules is None:
            demand(found.why.strip(), f"{work.macs} MACs of {work.dtype}: joules is None and why is empty")
        else:
            demand(found.joules != 0, f"{work.macs} MACs of {work.dtype} are estimated as 0 J", SAY_NONE)


@ESTIMATES.check
def are_energies(trial: MeterTrial) -> None:
    """Estimates are finite and not negative."""
    joules = trial.estimate().joules
    demand(joules is None or _is_energy(joules), f"{WORK} is estimated as {joules!r} J, which is not an energy")


@ESTIMATES.check
def grow_with_work(trial: MeterTrial) -> None:
    """Ten times the work takes more."""
    once = trial.estimate().joules
    tenfold = Work(
        "policy", WORK.format, WORK.dtype, 10 * WORK.macs, 10 * WORK.weight_bytes, 10 * WORK.activation_bytes
    )
    more = trial.estimate(tenfold).joules
    if once is None or more is None:
        raise NotApplicable("this meter cannot estimate that work: joules is None")
    demand(more > once, f"ten times the work is estimated as {more!r} J, once as {once!r} J")


# ---------------------------------------------------------------------------- closes


@CLOSES.check
def twice(trial: MeterTrial) -> None:
    """close() may be called again."""
    _close(trial.plugin, "close()")
    _close(trial.plugin, "close(), the second time,")


@CLOSES.check
def in_a_window(trial: MeterTrial) -> None:
    """close() may be called while a window is open, as after an error."""
    trial.plugin.begin_window("rollout")
    _close(trial.plugin, "close() in a window")


def _close(meter: Meter, what: str) -> None:
    try:
        meter.close()
    except Exception as error:
        raise Fault(f"{what} raised {type(error).__name__}: {error}", "close must be idempotent") from error


def _is_energy(joules: float) -> bool:
    return math.isfinite(joules) and joules >= 0.0


LEVELS: tuple[Level, ...] = (LOADS, READS, WINDOWS, ESTIMATES, CLOSES)
_open: Callable[..., Meter] = plugins.get_meter
METER = Suite("meter", LEVELS, plugins.meters, _open)

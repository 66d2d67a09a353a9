"""The observers that a stage's options ask for. What is not asked for is not even imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import StageError

if TYPE_CHECKING:
    from ..checkpoints.running import MakeObserver
    from .arguments import CommonArguments


def observers_of(script: CommonArguments) -> list[MakeObserver]:
    """What makes each, given the run's folder where there is no MXCallback, which has one of its own.

    Raises:
        StageError: an option without the one that it belongs to.
        ProfilerError: an impossible schedule; pyinstrument is missing.
        AlertError: alert rules that cannot be used.
        PluginError: Trackio is missing.
    """
    return [*_profiler(script), *_stability(script)]


def _stability(script: CommonArguments) -> list[MakeObserver]:
    if not (script.stability or script.alerts is not None or script.dashboard):
        return []
    from ..dashboard.callback import StabilityCallback
    from ..dashboard.hooks import hooks_of
    from ..dashboard.live import LiveDashboard, need_trackio
    from ..dashboard.rules import load_rules

    hooks_of(load_rules(script.alerts))
    made: list[MakeObserver] = [lambda folder: StabilityCallback(script.alerts, output_dir=folder)]
    if script.dashboard:
        need_trackio()
        made.append(lambda folder: LiveDashboard(folder))
    return made


def _profiler(script: CommonArguments) -> list[MakeObserver]:
    if not script.profile:
        if script.profile_schedule is not None:
            raise StageError("--profile_schedule says which steps --profile looks at, and --profile is not given")
        return []
    from ..profiler.callback import MXProfilerCallback
    from ..profiler.flame import need_pyinstrument
    from ..profiler.schedule import Schedule

    schedule = Schedule.of(script.profile_schedule)
    need_pyinstrument()
    return [lambda folder: MXProfilerCallback(schedule, output_dir=folder)]

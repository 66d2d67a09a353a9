"""What runs cost, by run name: the mean of the seeds, with its spread or with the energy table's range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .collect import ReportData, RunData
from .energy import Key, Modelled, measured, modelled, ratio_bounds
from .figure import spread


@dataclass(frozen=True)
class Cost:
    """A mean; ``low`` and ``high`` as ``words`` explains."""

    value: float
    low: float
    high: float
    words: str


def seconds(data: ReportData) -> dict[str, Cost]:
    """Measured wall time of training, by run name."""
    found = {}
    for name, runs in data.by_name().items():
        known = [run.seconds for run in runs if run.seconds is not None]
        if known:
            found[name] = _spread(known, "s, measured")
    return found


def joules_measured(data: ReportData) -> dict[str, dict[str, Cost]]:
    """Source -> run name -> joules; a run counts only if every seed of it was measured throughout."""
    found: dict[str, dict[str, Cost]] = {}
    for name, runs in data.by_name().items():
        totals = [measured(run.energy) for run in runs]
        for source in dict.fromkeys(source for each in totals for source in each):
            if all(source in each for each in totals):
                found.setdefault(source, {})[name] = _spread([each[source] for each in totals], f"J, {source}")
    return found


def mean_modelled(runs: list[RunData]) -> dict[str, Modelled]:
    """Source -> the seeds' mean, for sources that every seed has."""
    each = [modelled(run.energy, run.config) for run in runs]
    found = {}
    for source in each[0] if each else ():
        own = [one[source] for one in each if source in one]
        if len(own) == len(each):
            counts: dict[Key, float] = {}
            for one in own:
                for key, count in one.counts.items():
                    counts[key] = counts.get(key, 0.0) + count / len(own)
            why = next((one.why for one in own if one.why), "")
            mean = sum(one.joules for one in own) / len(own)
            found[source] = Modelled(source, mean, {} if why else counts, why)
    return found


def joules_modelled(data: ReportData) -> dict[str, dict[str, Cost]]:
    """Source -> run name -> modelled joules with the table's range."""
    found: dict[str, dict[str, Cost]] = {}
    for name, runs in data.by_name().items():
        for source, mean in mean_modelled(runs).items():
            low, high = mean.bounds or (mean.joules, mean.joules)
            words = f"{mean.joules:.4g} J, modelled"
            words += f" [{low:.3g}, {high:.3g}]" if mean.bounds else f" (range unknown: {mean.why})"
            found.setdefault(source, {})[name] = Cost(mean.joules, low, high, words)
    return found


def energy_ratios(data: ReportData) -> dict[str, dict[str, tuple[float, tuple[float, float] | None]]]:
    """Source -> run name -> (modelled energy over the baseline's, its range)."""
    groups: Mapping[str, list[RunData]] = data.by_name()
    baseline = data.baseline
    if baseline is None or baseline not in groups:
        return {}
    below = mean_modelled(groups[baseline])
    found: dict[str, dict[str, tuple[float, tuple[float, float] | None]]] = {}
    for name, runs in groups.items():
        for source, mean in mean_modelled(runs).items():
            if name != baseline and source in below and below[source].joules > 0:
                ratio = mean.joules / below[source].joules
                found.setdefault(source, {})[name] = (ratio, ratio_bounds(mean, below[source]))
    return found


def _spread(values: list[float], unit: str) -> Cost:
    mean, below, above = spread(values)
    words = f"{mean:.4g} {unit}"
    if len(values) > 1:
        words += f" ({len(values)} seeds, {min(values):.4g} to {max(values):.4g})"
    return Cost(mean, mean - below, mean + above, words)

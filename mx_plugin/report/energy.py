"""Energy of a run: measured joules by meter, modelled joules with the range that the energy table allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import PluginError
from ..interfaces import Work
from ..ledger.modelled import ModelledMeter
from ..ledger.rows import EnergyRow

_MODELLED = "modelled:"
_PROBE = 10**12
"""So many operations cost as many joules as one costs picojoules."""
_MOST_KEYS = 14

Key = tuple[str, tuple[float, float, float]]
"""An operation and its (low, mid, high) picojoules."""


@dataclass(frozen=True)
class Modelled:
    """How often each operation of the table was executed: energies are sums of counts x picojoules.

    ``why`` says why the range is not known, where it is not: ``counts`` is empty then.
    """

    source: str
    joules: float
    counts: Mapping[Key, float]
    why: str = ""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Joules with every operation at the low, and at the high end of its range."""
        if self.why:
            return None
        low, high = (sum(count * key[1][end] for key, count in self.counts.items()) * 1e-12 for end in (0, 2))
        return low, high

    def scaled(self, factor: float) -> Modelled:
        """The same for ``factor`` times the work."""
        return Modelled(self.source, self.joules * factor, {k: c * factor for k, c in self.counts.items()}, self.why)


def ratio_bounds(run: Modelled, baseline: Modelled) -> tuple[float, float] | None:
    """The least and the largest ratio of two energies, whatever each operation costs within its range.

    Both runs are priced by the same table, so an error of it moves both; the ratio of two linear functions with
    positive coefficients has its extremes at corners of the box of ranges, which are all tried.
    """
    keys = sorted({*run.counts, *baseline.counts})
    if run.why or baseline.why or len(keys) > _MOST_KEYS:
        return None
    ratios = []
    for ends in product((0, 2), repeat=len(keys)):
        prices = {key: key[1][end] for key, end in zip(keys, ends, strict=True)}
        below = sum(count * prices[key] for key, count in baseline.counts.items())
        if below > 0:
            ratios.append(sum(count * prices[key] for key, count in run.counts.items()) / below)
    return (min(ratios), max(ratios)) if ratios else None


def modelled(rows: Iterable[EnergyRow], config: Mapping[str, Any]) -> dict[str, Modelled]:
    """Modelled joules by source. Rows without an estimate leave their source out: a sum would be too small."""
    chosen = list(rows)
    found = {}
    for source in dict.fromkeys(row.source for row in chosen if row.source.startswith(_MODELLED)):
        own = [row for row in chosen if row.source == source]
        if all(row.joules is not None for row in own):
            found[source] = _counted(source, own, config)
    return found


def measured(rows: Iterable[EnergyRow]) -> dict[str, float]:
    """Measured joules by source; a source that did not know one window is left out."""
    totals: dict[str, float] = {}
    unknown = set()
    for row in rows:
        if not row.source or row.estimated or row.source.startswith(_MODELLED):
            continue
        if row.joules is None:
            unknown.add(row.source)
        else:
            totals[row.source] = totals.get(row.source, 0.0) + row.joules
    return {source: joules for source, joules in totals.items() if source not in unknown}


def _counted(source: str, rows: Sequence[EnergyRow], config: Mapping[str, Any]) -> Modelled:
    total = sum(row.joules or 0.0 for row in rows)
    meter, why = _meter(source, config)
    if meter is None:
        return Modelled(source, total, {}, why)
    memory, cast = meter.target.memory[meter.memory], meter.target.cast
    counts: dict[Key, float] = {}

    def add(name: str, energy: tuple[float, float, float], count: float) -> None:
        if count:
            key = (name, energy)
            counts[key] = counts.get(key, 0.0) + count

    for row in rows:
        rest = (row.joules or 0.0) * 1e12
        if row.macs:
            one = meter.bounds(Work(row.role, row.format, row.dtype, macs=_PROBE))
            if one is None:
                return Modelled(source, total, {}, f"{meter.table.path.name} has no energy for {row.format} now")
            add("mac", one, row.macs)
            rest -= one[1] * row.macs
        if row.bytes:
            add("byte", (memory.low, memory.mid, memory.high), row.bytes)
            rest -= memory.mid * row.bytes
        # What is left over are casts, which energy.csv does not count.
        if rest < -1e-6 * (row.joules or 0.0) * 1e12 or (rest > 0 and cast.mid == 0):
            return Modelled(source, total, {}, f"{meter.table.path.name} is not the table that the run was priced by")
        if rest > 1e-6 * (row.joules or 0.0) * 1e12:
            add("cast", (cast.low, cast.mid, cast.high), rest / cast.mid)
    return Modelled(source, total, counts)


def _meter(source: str, config: Mapping[str, Any]) -> tuple[ModelledMeter | None, str]:
    """The meter that made these estimates, from what config.json says of it."""
    target = source.removeprefix(_MODELLED)
    told = next((m for m in config.get("meters", ()) if isinstance(m, Mapping) and m.get("target") == target), {})
    try:
        return ModelledMeter(config.get("mx", {}).get("energy_table"), target, told.get("memory")), ""
    except PluginError as error:
        return None, str(error)

"""Where time, energy and bytes went, phase by phase: stacked bars, estimates hatched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..ledger.rows import EnergyRow
from .collect import ReportData, RunData
from .costs import Cost, joules_measured, joules_modelled
from .figure import Figure, axis, label, layout
from .theme import phase_colour

_ORDER = ("rollout", "reward", "gradient", "other")
_LONGEST = 16
Value = Callable[[EnergyRow], float | None]


def phase_figures(data: ReportData) -> list[Figure]:
    """Seconds, joules of every source, bytes; each the mean of a run's seeds."""
    figures = [
        _figure(data, "phase-seconds", "Seconds by phase", "seconds, measured", lambda row: row.seconds, False, ""),
    ]
    for source in joules_measured(data):
        figures.append(
            _figure(data, f"phase-{source}", f"Joules by phase, measured by {source}", "joules, measured",
                    _joules(source), False, "")
        )  # fmt: skip
    for source, costs in joules_modelled(data).items():
        note = "Hatched: an estimate from counted work and a table of energies; bars show the table's range of the sum."
        figures.append(
            _figure(data, f"phase-{source}", f"Joules by phase, {source}", "joules, modelled", _joules(source), True,
                    note, costs)
        )  # fmt: skip
    figures.append(
        _figure(data, "phase-bytes", "Bytes moved by phase", "gigabytes, counted", _gigabytes, True,
                "Hatched: counted from the shapes of what was executed (weights read, activations, KV cache), not "
                "measured on a bus.")
    )  # fmt: skip
    return [figure for figure in figures if figure.points]


def _joules(source: str) -> Value:
    return lambda row: row.joules if row.source == source else None


def _gigabytes(row: EnergyRow) -> float | None:
    return None if row.bytes is None else row.bytes / 1e9


def _figure(
    data: ReportData, key: str, title: str, unit: str, value: Value, estimated: bool, note: str,
    ranges: Mapping[str, Cost] | None = None,
) -> Figure:  # fmt: skip
    groups = data.by_name()
    sums = {name: _mean_by_phase(runs, value) for name, runs in groups.items()}
    phases = sorted({phase for each in sums.values() for phase in each}, key=place)
    names = [name for name, each in sums.items() if each]
    traces = [_bars(phase, names, sums, unit, estimated) for phase in phases]
    bounded = {name: cost for name, cost in (ranges or {}).items() if cost.low < cost.high}
    if bounded:
        traces.append(_range(bounded))
    several = any(len(runs) > 1 for runs in groups.values())
    words = f"{note} {'The mean of the seeds.' if several else ''}".strip()
    upright = axis("", type="category", autorange="reversed", ticktext=[label(_short(n)) for n in names],
                 tickvals=[label(n) for n in names], showgrid=False)  # fmt: skip
    lying = layout(axis(unit, rangemode="tozero"), upright, barmode="stack", bargap=0.35)
    return Figure(key, title, traces, lying, words, 90 + 32 * len(names))


def _mean_by_phase(runs: list[RunData], value: Value) -> dict[str, float]:
    totals: dict[str, float] = {}
    for run in runs:
        for row in run.energy:
            amount = value(row)
            if amount is not None:
                totals[row.phase] = totals.get(row.phase, 0.0) + amount / len(runs)
    return totals


def place(phase: str) -> tuple[bool, int, str]:
    """The order of phases; those of evaluations come last."""
    inner = phase.rpartition("/")[2]
    return (phase != inner, _ORDER.index(inner) if inner in _ORDER else len(_ORDER), phase)


def _bars(
    phase: str, names: list[str], sums: Mapping[str, Mapping[str, float]], unit: str, estimated: bool
) -> dict[str, Any]:
    colour = phase_colour(phase)
    marker: dict[str, Any] = {"color": colour}
    if estimated:
        pattern = {"shape": "/", "fillmode": "replace", "fgcolor": colour, "size": 6, "solidity": 0.45}
        marker |= {"line": {"color": colour, "width": 1}, "pattern": pattern}
    values = [sums[name].get(phase) for name in names]
    words = [
        f"{label(n)}, {phase}: " + ("none" if v is None else f"{v:.4g} {unit}")
        for n, v in zip(names, values, strict=True)
    ]
    return {
        "type": "bar", "orientation": "h", "name": phase, "x": values, "y": [label(name) for name in names],
        "marker": marker,
        "hovertext": words, "hoverinfo": "text",
    }  # fmt: skip


def _short(name: str) -> str:
    """A name that leaves room for the bars on a phone."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _range(costs: Mapping[str, Cost]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "marker": {"size": 1, "opacity": 0}, "hoverinfo": "skip",
        "x": [cost.value for cost in costs.values()], "y": [label(name) for name in costs],
        "error_x": {"type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": "#888888",
                    "array": [cost.high - cost.value for cost in costs.values()],
                    "arrayminus": [cost.value - cost.low for cost in costs.values()]},
    }  # fmt: skip

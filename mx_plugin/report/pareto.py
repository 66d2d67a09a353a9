"""Quality against cost: measured seconds first, measured joules where a meter read them, modelled joules apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..experiments.evaluated import DEPLOYED, UNQUANTISED
from .collect import ReportData
from .costs import Cost, joules_measured, joules_modelled, seconds
from .figure import Figure, axis, label, layout
from .quality import Point, Quality

_SYMBOLS = {DEPLOYED: "circle", UNQUANTISED: "circle-open", "training": "circle"}
_CONTROL_SYMBOLS = {DEPLOYED: "diamond", UNQUANTISED: "diamond-open", "training": "diamond"}


@dataclass(frozen=True)
class _Axis:
    key: str
    title: str
    unit: str
    costs: Mapping[str, Cost]
    note: str


def pareto_figures(data: ReportData, found: Quality | None, colours: Mapping[str, str]) -> list[Figure]:
    """One figure for each way of counting cost; none without a quality."""
    if found is None:
        return []
    axes = [_Axis("pareto-seconds", "Quality against measured seconds", "seconds of training, measured",
                  seconds(data), "Seconds: the mean of the seeds, bars from the fastest to the slowest.")]  # fmt: skip
    for source, costs in joules_measured(data).items():
        axes.append(_Axis(f"pareto-{source}", f"Quality against joules measured by {source}", "joules, measured", costs,
                          "Joules: the mean of the seeds, bars from the least to the most."))  # fmt: skip
    for source, modelled in joules_modelled(data).items():
        known = all(cost.low < cost.high for cost in modelled.values())
        bars = "bars span the energy table's range, with every operation at its low or high end" if known else (
            "the table's range is not known here"
        )  # fmt: skip
        axes.append(_Axis(f"pareto-{source}", f"Quality against modelled joules ({source})", "joules, modelled",
                          modelled, f"Joules are an estimate from counted work and a table, not a measurement; {bars}. "
                          "An error of the table moves all runs together: see the ratios below."))  # fmt: skip
    return [_figure(data, each, found, colours) for each in axes if each.costs]


def _figure(data: ReportData, along: _Axis, found: Quality, colours: Mapping[str, str]) -> Figure:
    controls = {run.name for run in data.runs if run.control}
    traces: list[dict[str, Any]] = []
    for form, points in found.points.items():
        symbols = _CONTROL_SYMBOLS if form not in _SYMBOLS else _SYMBOLS
        for name, point in points.items():
            if name in along.costs:
                symbol = (_CONTROL_SYMBOLS if name in controls else symbols)[form]
                shown = form != UNQUANTISED
                traces.append(_mark(name, form, along.costs[name], point, colours[name], symbol, shown))
    shapes = [] if found.start is None else [_start_line(found.start)]
    front = next((form for form in (DEPLOYED, "training", UNQUANTISED) if form in found.points), None)
    if front is not None:
        traces.insert(0, _front(along.costs, found.points[front]))
    words = "Filled: as deployed, in rollout formats. Open: unquantised. Diamonds: controls. " if (
        DEPLOYED in found.points) else ""  # fmt: skip
    tail = "Dotted: the Pareto front; dashed: the model before training." if found.start is not None else (
        "Dotted: the Pareto front.")  # fmt: skip
    room = {"rangemode": "tozero"} if along.key == "pareto-seconds" else {}
    return Figure(
        along.key, along.title, traces,
        layout(axis(along.unit, **room), axis(found.title), shapes=shapes),
        f"{found.note} {along.note} {words}{tail}", 400,
    )  # fmt: skip


def _mark(name: str, form: str, cost: Cost, point: Point, colour: str, symbol: str, named: bool) -> dict[str, Any]:
    words = f"{label(name)}, {form}<br>{point.value:.4g} [{point.low:.4g}, {point.high:.4g}]<br>{cost.words}"
    return {
        "type": "scatter", "mode": "markers+text" if named else "markers", "name": f"{label(name)}, {form}",
        "x": [cost.value], "y": [point.value], "text": [label(name)] if named else None,
        "textposition": "top right",
        "error_x": _bars(cost.value - cost.low, cost.high - cost.value, colour),
        "error_y": _bars(point.value - point.low, point.high - point.value, colour),
        "marker": {"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2, "color": colour}},
        "hovertext": [words], "hoverinfo": "text",
    }  # fmt: skip


def _bars(below: float, above: float, colour: str) -> dict[str, Any]:
    return {"type": "data", "symmetric": False, "array": [max(above, 0.0)], "arrayminus": [max(below, 0.0)],
            "thickness": 1.2, "width": 3, "color": colour}  # fmt: skip


def _front(costs: Mapping[str, Cost], points: Mapping[str, Point]) -> dict[str, Any]:
    """Steps through the points that no other beats in both."""
    ordered = sorted((costs[name].value, -point.value) for name, point in points.items() if name in costs)
    x: list[float] = []
    y: list[float] = []
    for cost, negative in ordered:
        if not y or -negative > y[-1]:
            x.append(cost)
            y.append(-negative)
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "Pareto front", "hoverinfo": "skip",
            "line": {"shape": "hv", "dash": "dot", "width": 1.5, "color": "#888888"}}  # fmt: skip


def _start_line(value: float) -> dict[str, Any]:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value,
            "line": {"dash": "dash", "width": 1.2, "color": "#888888"}}  # fmt: skip

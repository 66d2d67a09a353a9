"""Where a profiled run's time and memory went: by phase, role, format and layer. Reads what is in profile.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .collect import ReportData, RunData
from .figure import Figure, axis, label, layout
from .phases import place
from .theme import format_colour, phase_colour

OUTSIDE = "outside layers"
_GREY = "#9aa0a6"
_ABOUT = (
    "Of {steps}, in which everything was measured: the measuring itself is in these seconds. A layer's are its "
    "forward and backward; outside layers are attention products, sampling, loss, optimiser and data."
)


def profile_figures(data: ReportData) -> list[Figure]:
    """Of every run with a profile: a map of seconds, seconds by format, and peaks of memory."""
    profiled = [run for run in data.runs if run.profile]
    several = len(profiled) > 1
    figures: list[Figure] = []
    for number, run in enumerate(profiled):
        suffix = f", {run.name} (seed {run.seed})" if several else ""
        figures += [figure for figure in _figures(run, f"profile-{number}", suffix) if figure.points]
    return figures


def _figures(run: RunData, key: str, suffix: str) -> Iterable[Figure]:
    found = _layers(run.profile)
    if found:
        note = _ABOUT.format(steps=_steps(run.profile.get("profiled_steps", [])))
        yield _map(found, f"{key}-map", f"Seconds by phase, role, format and layer{suffix}", note)
        yield _by_format(found, f"{key}-formats", f"Seconds by phase and format{suffix}")
    yield _memory(run.profile, f"{key}-memory", f"Peak memory by phase{suffix}")


_Layers = dict[tuple[str, str, str, str], float]
"""Seconds by (phase, role, format, layer); what is outside layers has an empty format and layer."""


def _layers(profile: Mapping[str, Any]) -> _Layers:
    found: _Layers = defaultdict(float)
    for layer in profile.get("layers", ()):
        found[layer["phase"], layer["role"], layer["format"], layer["layer"]] += layer["seconds"]
    if not found:
        return {}
    for phase in profile.get("phases", ()):
        rest = phase["profiled_seconds"] - sum(s for place_, s in found.items() if place_[0] == phase["phase"])
        if rest > 0:
            found[phase["phase"], OUTSIDE, "", ""] = rest
    return dict(sorted(found.items(), key=lambda item: place(item[0][0])))


def _map(found: _Layers, key: str, title: str, note: str) -> Figure:
    """A treemap. Only leaves have values: what a branch adds up to is plotly's to say, to the last digit."""
    whole = sum(found.values())
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for path, seconds in found.items():
        parts = tuple(part for part in path if part)
        for depth in range(1, len(parts) + 1):
            sums[parts[:depth]] += seconds
    leaves = {tuple(part for part in path if part) for path in found}
    nodes = list(sums)
    trace = {
        "type": "treemap",
        "ids": ["|".join(node) for node in nodes],
        "labels": [label(node[-1]) for node in nodes],
        "parents": ["|".join(node[:-1]) for node in nodes],
        "values": [sums[node] if node in leaves else 0 for node in nodes],
        "hovertext": [f"{label(' / '.join(n))}: {sums[n]:.4g} s, {100 * sums[n] / whole:.1f}%" for n in nodes],
        "hoverinfo": "text",
        "texttemplate": "%{label}<br>%{percentRoot:.1%}",
        "marker": {"colors": [_colour(node) for node in nodes], "line": {"width": 1}},
        "tiling": {"pad": 2},
        "sort": True,
        "pathbar": {"visible": True},
    }
    return Figure(key, title, [trace], {"margin": {"l": 4, "r": 4, "t": 28, "b": 4}}, note, 520)


def _colour(node: tuple[str, ...]) -> str:
    if node[1:2] == (OUTSIDE,):
        return _GREY
    return phase_colour(node[0]) if len(node) < 3 else format_colour(node[2].partition(" ")[2] or node[2])


def _by_format(found: _Layers, key: str, title: str) -> Figure:
    phases = list(dict.fromkeys(phase for phase, *_ in found))
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (phase, _, fmt, _), seconds in found.items():
        sums[fmt or OUTSIDE][phase] += seconds
    traces: list[dict[str, Any]] = []
    for fmt in sorted(sums, key=lambda name: (name == OUTSIDE, name)):
        values = [sums[fmt].get(phase) for phase in phases]
        words = [f"{phase}, {label(fmt)}: {value or 0:.4g} s" for phase, value in zip(phases, values, strict=True)]
        colour = _GREY if fmt == OUTSIDE else format_colour(fmt)
        pattern = {"shape": "/", "fillmode": "replace", "fgcolor": colour, "size": 6, "solidity": 0.3}
        marker: dict[str, Any] = {"color": colour} | ({"pattern": pattern} if fmt == OUTSIDE else {})
        traces.append(
            {"type": "bar", "orientation": "h", "name": label(fmt), "x": values, "y": phases, "marker": marker,
             "hovertext": words, "hoverinfo": "text"}
        )  # fmt: skip
    upright = axis("", type="category", autorange="reversed", showgrid=False)
    lying = layout(axis("seconds, measured", rangemode="tozero"), upright, barmode="stack", bargap=0.35)
    legend = {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    note = "FP16[dtype]: not quantised, and the dtype. Hatched: outside layers."
    return Figure(key, title, traces, lying | legend, note, 150 + 32 * len(phases))


def _memory(profile: Mapping[str, Any], key: str, title: str) -> Figure:
    phases = [phase for phase in profile.get("phases", ()) if phase["resident_peak"] or phase["cuda_peak"]]
    traces: list[dict[str, Any]] = []
    for what, name, colour in (
        ("resident_peak", "resident set", "#4477aa"),
        ("cuda_peak", "CUDA allocator", "#228833"),
    ):
        if any(phase[what] for phase in phases):
            traces.append(
                {"type": "bar", "orientation": "h", "name": name, "marker": {"color": colour},
                 "x": [None if phase[what] is None else phase[what] / 2**30 for phase in phases],
                 "y": [phase["phase"] for phase in phases],
                 "hovertext": [f"{p['phase']}, {name}: {(p[what] or 0) / 2**30:.3f} GiB" for p in phases],
                 "hoverinfo": "text"}
            )  # fmt: skip
    upright = axis("", type="category", autorange="reversed", showgrid=False)
    lying = layout(axis("GiB, measured", rangemode="tozero"), upright, barmode="group", bargap=0.35)
    legend = {"showlegend": len(traces) > 1, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    note = "The largest of all steps, the process's whole memory: what other phases hold is in it."
    return Figure(key, title, traces, lying | legend, note, 120 + 32 * len(phases))


def _steps(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
    return f"step {shown}" if len(steps) == 1 else f"steps {shown}"

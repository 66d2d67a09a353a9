"""The layer x phase map: which format every layer was executed in, by phase and role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .collect import ReportData, RunData
from .figure import Figure, label, layout
from .theme import format_colour, weight_format

_MOST_ROWS = 80
_ROW, _LEAST = 17, 150
_PHASES = ("rollout", "reward", "gradient")
_ROLES = ("policy", "value", "reference", "reward")

Row = tuple[str, tuple[str | None, ...]]
"""A layer, or several that follow each other and agree, and the format in each column."""


def format_maps(data: ReportData) -> list[Figure]:
    """One map for each run name, of its first seed: the phases that each role was executed in."""
    figures = []
    for number, (name, runs) in enumerate(data.by_name().items()):
        figure = _map(f"formats-{number}", name, runs)
        if figure is not None:
            figures.append(figure)
    return figures


def formats_used(data: ReportData) -> list[str]:
    """Weight formats on any map, the narrowest first."""
    from .theme import bits_of

    found = {
        weight_format(text)
        for run in data.runs
        for phases in run.config.get("formats", {}).values()
        for layers in phases.values()
        for text in layers.values()
    }
    return sorted(found, key=lambda text: (text.startswith("FP16"), bits_of(text), text))


def _map(key: str, name: str, runs: Sequence[RunData]) -> Figure | None:
    formats: Mapping[str, Mapping[str, Mapping[str, str]]] = runs[0].config.get("formats") or {}
    hits = runs[0].config.get("hits") or {}
    columns = [
        (role, phase)
        for role in _ROLES
        for phase in _PHASES
        if formats.get(role, {}).get(phase) and (not hits or hits.get(role, {}).get(phase))
    ]
    if not columns:
        return None
    rows = _rows(formats, columns)
    merged = len(rows) > _MOST_ROWS
    if merged:
        rows = _merged(rows)
    kinds = sorted({text for _, cells in rows for text in cells if text is not None})
    place = {text: i for i, text in enumerate(kinds)}
    columns_titles = [f"{role}<br>{phase}" for role, phase in columns]
    note = "Layers that follow each other in the same formats share a row. " if merged else ""
    if len({str(run.config.get("formats")) for run in runs}) > 1:
        note += f"Formats differ between seeds; this is seed {runs[0].seed}."
    trace: dict[str, Any] = {
        "type": "heatmap", "x": columns_titles, "y": [label(layer) for layer, _ in rows], "xgap": 2, "ygap": 1,
        "z": [[None if text is None else place[text] for text in cells] for _, cells in rows],
        "text": [["" if text is None else label(_short(text)) for text in cells] for _, cells in rows],
        "customdata": [["not there" if text is None else label(text) for text in cells] for _, cells in rows],
        "hovertemplate": "%{y}<br>%{x}<br>%{customdata}<extra></extra>",
        "texttemplate": "%{text}", "textfont": {"size": 9, "color": "#ffffff"},
        "zmin": -0.5, "zmax": len(kinds) - 0.5, "showscale": False, "colorscale": _scale(kinds),
    }  # fmt: skip
    room = {"automargin": True, "tickfont": {"size": 9}, "showgrid": False, "zeroline": False}
    shown = layout(
        {**room, "side": "top", "type": "category", "tickangle": 0},
        {**room, "type": "category", "autorange": "reversed"},
    )
    return Figure(key, name, [trace], shown, note.strip(), max(_LEAST, _ROW * len(rows) + 60))


def _rows(formats: Mapping[str, Mapping[str, Mapping[str, str]]], columns: list[tuple[str, str]]) -> list[Row]:
    layers: dict[str, None] = {}
    for role, phase in columns:
        layers |= dict.fromkeys(formats[role][phase])
    common = _common_prefix(list(layers))
    return [
        (layer.removeprefix(common), tuple(formats[role][phase].get(layer) for role, phase in columns))
        for layer in layers
    ]


def _common_prefix(layers: list[str]) -> str:
    """Components that all names with several begin with, with their dot."""
    parts = [layer.split(".") for layer in layers if "." in layer]
    common = 0
    while parts and all(len(each) > common + 1 and each[common] == parts[0][common] for each in parts):
        common += 1
    return "".join(f"{part}." for part in parts[0][:common]) if parts else ""


def _merged(rows: list[Row]) -> list[Row]:
    found: list[tuple[str, str, int, tuple[str | None, ...]]] = []
    for layer, cells in rows:
        if found and found[-1][3] == cells:
            first, _, count, _ = found[-1]
            found[-1] = (first, layer, count + 1, cells)
        else:
            found.append((layer, layer, 1, cells))
    return [(first if n == 1 else f"{first} … {last} ({n})", cells) for first, last, n, cells in found]


def _short(text: str) -> str:
    """What fits into a cell: the weights' format without its prefix; details are shown on hovering."""
    return weight_format(text).partition("[")[0].removeprefix("MX")


def _scale(kinds: list[str]) -> list[list[Any]]:
    """Steps, one colour a format."""
    count = len(kinds)
    steps: list[list[Any]] = []
    for i, text in enumerate(kinds):
        steps += [[i / count, format_colour(text)], [(i + 1) / count, format_colour(text)]]
    return steps

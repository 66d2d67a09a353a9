"""What a whole profile adds up to: profile.json, and the closing table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .layers import BACKWARD, FORWARD
from .rows import ProfileRow

OUTSIDE = "outside layers"
"""What of a profiled phase no layer took: attention products, sampling, loss, optimiser, data, logging."""

_ORDER = ("rollout", "reward", "gradient", "other")
_TOP = 8


def place_of(phase: str) -> tuple[bool, int, str]:
    """The order of phases; those of evaluations come last."""
    inner = phase.rpartition("/")[2]
    return phase != inner, _ORDER.index(inner) if inner in _ORDER else len(_ORDER), phase


def phase_totals(rows: Iterable[ProfileRow]) -> list[dict[str, Any]]:
    """By phase: seconds of all steps and of the profiled ones, and the largest peaks in bytes (None: not known)."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not row.is_phase:
            continue
        total = found.setdefault(
            row.phase,
            {"phase": row.phase, "seconds": 0.0, "profiled_seconds": 0.0, "resident_peak": None, "cuda_peak": None},
        )
        total["seconds"] += row.seconds
        total["profiled_seconds"] += row.seconds if row.profiled else 0.0
        for name in ("resident_peak", "cuda_peak"):
            known = [value for value in (total[name], getattr(row, name)) if value is not None]
            total[name] = max(known, default=None)
    return sorted(found.values(), key=lambda total: place_of(total["phase"]))


def layer_totals(rows: Iterable[ProfileRow]) -> list[dict[str, Any]]:
    """By phase, role, layer, format and direction, over the profiled steps; the longest first."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in rows:
        if not row.is_phase:
            total = found[row.phase, row.role, row.layer, row.format, row.direction]
            total[0] += row.calls or 0
            total[1] += row.seconds
    names = ("phase", "role", "layer", "format", "direction")
    totals = [dict(zip(names, key, strict=True)) | {"calls": int(c), "seconds": s} for key, (c, s) in found.items()]
    return sorted(totals, key=lambda total: -float(total["seconds"]))


def closing_table(rows: Sequence[ProfileRow], files: str, notes: Sequence[str] = ()) -> str:
    """Phases, then roles and formats, then the longest layers, in plain text."""
    phases, layers = phase_totals(rows), layer_totals(rows)
    steps = sorted({row.step for row in rows if row.profiled})
    cuda = any(phase["cuda_peak"] is not None for phase in phases)
    whole = sum(phase["seconds"] for phase in phases)
    head = ["phase", "seconds", "share", "peak resident", *(["peak CUDA"] if cuda else [])]
    body = [
        [phase["phase"], f"{phase['seconds']:.2f}", _share(phase["seconds"], whole), _bytes(phase["resident_peak"]),
         *([_bytes(phase["cuda_peak"])] if cuda else [])]
        for phase in phases
    ]  # fmt: skip
    lines = ["Profile, all steps", *_columns([head, *body, ["total", f"{whole:.2f}"]])]
    if layers:
        profiled = sum(phase["profiled_seconds"] for phase in phases)
        lines += ["", f"Profiled {_steps(steps)}: {profiled:.2f} s", *_columns(_by_format(phases, layers, profiled))]
        lines += ["", "Longest layers", *_columns(_longest(layers, profiled))]
    elif not steps:
        lines += ["", "No step was profiled: training ended before the schedule's first window"]
    return "\n".join([*lines, *notes, f"files in {files}"])


def _by_format(phases: Sequence[dict[str, Any]], layers: Sequence[dict[str, Any]], profiled: float) -> list[list[str]]:
    sums: dict[tuple[str, str, str], dict[str, float]] = defaultdict(lambda: {FORWARD: 0.0, BACKWARD: 0.0})
    for layer in layers:
        sums[layer["phase"], layer["role"], layer["format"]][layer["direction"]] += layer["seconds"]
    table = [["phase", "role", "format", "forward s", "backward s", "share"]]
    for phase in phases:
        own = {key: value for key, value in sums.items() if key[0] == phase["phase"]}
        for key, value in sorted(own.items(), key=lambda item: -sum(item[1].values())):
            backward = f"{value[BACKWARD]:.3f}" if value[BACKWARD] else ""
            table.append([*key, f"{value[FORWARD]:.3f}", backward, _share(sum(value.values()), profiled)])
        rest = phase["profiled_seconds"] - sum(sum(value.values()) for value in own.values())
        if phase["profiled_seconds"]:
            table.append([phase["phase"], f"({OUTSIDE})", "", f"{rest:.3f}", "", _share(rest, profiled)])
    return table


def _longest(layers: Sequence[dict[str, Any]], profiled: float) -> list[list[str]]:
    table = [["layer", "phase", "format", "calls", "seconds", "share"]]
    for layer in layers[:_TOP]:
        name = f"{layer['role']}:{layer['layer']}"
        if layer["direction"] == BACKWARD:
            name += " backward"
        table.append([name, layer["phase"], layer["format"], str(layer["calls"]), f"{layer['seconds']:.3f}",
                      _share(layer["seconds"], profiled)])  # fmt: skip
    return table


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole > 0 else ""


def _bytes(count: int | None) -> str:
    return "n/a" if count is None else f"{count / 2**20:.0f} MiB"


def _steps(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]}"
    if steps == list(range(steps[0], steps[-1] + 1)):
        return f"steps {steps[0]} to {steps[-1]}"
    return f"steps {', '.join(map(str, steps))}"


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Words to the left, numbers to the right."""
    width = max(len(row) for row in table)
    cells = [[*row, *[""] * (width - len(row))] for row in table]
    words = [
        any(c and not c[0].isdigit() and c != "n/a" and c[0] != "-" for c in col[1:])
        for col in zip(*cells, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in zip(row, widths, words, strict=True)).rstrip()
        for row in cells
    ]

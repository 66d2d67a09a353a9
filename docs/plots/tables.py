"""The tables of performance.md, from what ``mx-plugin bench --json`` printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

BENCHES = {
    "linear": "Linear layers: times faster than bf16, the cast of the activations included",
    "decode": "Generation: `generate` under policy C, Qwen2-0.5B's shape",
    "step": "A whole PPO step",
    "train": "Training products: forward and backward of one layer",
    "cast": "Casts: bytes moved a second, against `torch.copy_`",
    "overhead": "Python's part in a call",
}
"""Title of each bench that has one; others are titled by their name. In the order of the page."""


def tables(report: dict[str, Any]) -> str:
    """Markdown: the machine, then one section for each bench."""
    rows: list[Row] = report["rows"]
    found = list(dict.fromkeys(row["bench"] for row in rows))
    order = [name for name in BENCHES if name in found] + [name for name in found if name not in BENCHES]
    parts = [machine(report["machine"])]
    for name in order:
        own = [row for row in rows if row["bench"] == name]
        parts.append(f"## {BENCHES.get(name, name)}")
        parts += _grids(own) if name in ("linear", "cast") else ["\n".join(_list(own))]
    notes = [f"- {note}" for note in report["notes"]]
    return "\n\n".join(parts + (["\n".join(["Notes of the run:", "", *notes])] if notes else []))


def machine(it: dict[str, Any]) -> str:
    """Where it was measured, in one sentence."""
    load = "unknown" if it["load_before"] is None else f"{it['load_before']:.1f}"
    clock = "wall time" if it["clock"] == "perf_counter" else "processor time of one thread"
    parts = (
        f"{it['processor']}, {it['threads']} of {it['processors']} processors (load before: {load}), {clock}",
        f"torch {it['torch']}, mx-plugin {it['mx_plugin']}",
        f"backend `{it['backend']}` (`{it['implementation']}`, level `{it['level']}`)",
        f"streaming read {it['read_bytes_per_s'] / 1e9:.1f} GB/s, weights rotated over {it['rotated_bytes'] >> 20} MiB",
        f"largest cache {it['cache_bytes'] >> 20} MiB",
    )
    return f"Measured on: {'; '.join(parts)}."


# ---------------------------------------------------------------------------- one line a row


def _list(rows: list[Row]) -> Iterator[str]:
    yield "| case | what | time | speed | target (stretch) | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        verdict = {None: "", True: "met", False: "missed"}[row["met"]]
        note = ", ".join(part for part in (verdict, row["note"]) if part)
        speed = "" if row["ratio"] is None else f"{_ratio(row['ratio'])}x"
        yield f"| {row['case']} | {row['what']} | {_time(row['seconds'])} | {speed} | {_target(row)} | {note} |"


def _target(row: Row) -> str:
    if row["at_most"] is not None:
        return f"< {_time(row['at_most'])}"
    return "" if row["target"] is None else f"{row['target']:.2f} ({row['stretch']:.2f})"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.095 else f"{ratio:.2g}"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"


# ---------------------------------------------------------------------------- one column a case


def _grids(rows: list[Row]) -> Iterator[str]:
    """A grid for each shape (the case without its ``M=``): what by case, each cell the ratio and its target."""
    for shape in dict.fromkeys(row["case"].rpartition(" M=")[0] for row in rows):
        own = [row for row in rows if row["case"].rpartition(" M=")[0] == shape]
        cases = list(dict.fromkeys(row["case"] for row in own))
        cells = {(row["what"], row["case"]): _cell(row) for row in own}
        heads = [case.removeprefix(shape).strip() for case in cases]
        lines = [f"| {shape} | {' | '.join(heads)} |", "|---" * (len(cases) + 1) + "|"]
        for what in dict.fromkeys(row["what"] for row in own):
            lines.append(f"| {what} | {' | '.join(cells.get((what, case), '') for case in cases)} |")
        yield "\n".join(lines)


def _cell(row: Row) -> str:
    """``4.99 (4.70 met)``; of a line that is its own baseline, the time."""
    if row["ratio"] is None or (row["ratio"] == 1.0 and row["target"] is None):
        return _time(row["seconds"])
    verdict = {None: "", True: f" ({row['target'] or 0:.2f} met)", False: f" ({row['target'] or 0:.2f} missed)"}
    return f"{_ratio(row['ratio'])}{verdict[row['met']]}"

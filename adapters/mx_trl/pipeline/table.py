"""The summary of a pipeline: a line per stage."""

from __future__ import annotations

from typing import Any

from .plan import PipelinePlan
from .record import Records

_HEAD = ("stage", "status", "policy", "steps", "minutes", "measure", "held out")


def table(plan: PipelinePlan, records: Records) -> str:
    """Stage, status, precision policy, steps, minutes, the measure first -> last, and what was held out."""
    rows = [_HEAD, *(_row(stage.name, records) for stage in plan.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [lines[0], "-" * max(map(len, lines)), *lines[1:], f"models: {plan.output_dir}/<stage>/checkpoints/final"]
    )


def _row(name: str, records: Records) -> tuple[str, ...]:
    record = records.by_name.get(name)
    if record is None:
        return (name, "not begun", "", "", "", "", "")
    result = record.result
    minutes = f"{record.seconds / 60:.1f}"
    if not result:
        return (name, record.status, "", "", minutes, "", "")
    return (
        name, record.status, str(result["policy"]), str(result["steps"]), minutes, _measure(result), _held_out(result)
    )  # fmt: skip


def _measure(result: dict[str, Any]) -> str:
    if result["first"] is None:
        return ""
    return f"{result['measure']} {result['first']:.3f} -> {result['last']:.3f}"


def _held_out(result: dict[str, Any]) -> str:
    held = result["held_out"]
    if held is None:
        return ""
    low_high = "" if held["interval"] is None else " [{:.3f}, {:.3f}]".format(*held["interval"])
    return f"{held['name']} {held['before']:.3f} -> {held['after']:.3f}{low_high}"

"""What stands on the quality axis: the judge on held-out prompts where there is one, else the training reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..experiments.evaluated import FORMS, UNQUANTISED
from .collect import ReportData, RunData

_LAST = 4


@dataclass(frozen=True)
class Point:
    """A mean and its interval; without an interval ``low`` and ``high`` are the least and largest run."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """``points``: form -> run name -> point; ``start``: of the model before training, if known."""

    title: str
    note: str
    points: Mapping[str, Mapping[str, Point]]
    start: float | None = None


def quality(data: ReportData) -> Quality | None:
    """None where nothing tells how good a run is."""
    found = data.comparison
    if found is not None:
        points = {
            form: {
                name: Point(**forms[form]["means"]["judge"])
                for name, forms in found["runs"].items()
                if form in forms and "judge" in forms[form]["means"]
            }
            for form in FORMS
        }
        start = data.start.get(UNQUANTISED, {}).get("judge_mean")
        note = (
            f"Judge {found['judge']} on held-out prompts, in full precision; bars are {found['confidence']:.0%} "
            "bootstrap intervals over prompts and seeds."
        )
        return Quality("judge's mean score", note, {f: p for f, p in points.items() if p}, start)
    rewards = {name: _last_rewards(runs) for name, runs in data.by_name().items()}
    known = {name: point for name, point in rewards.items() if point is not None}
    if not known:
        return None
    note = (
        "These runs were not evaluated: the axis is the training reward, mean of the last quarter of the steps, bars "
        "from the lowest to the highest seed. It is not a judgement of quality."
    )
    return Quality("training reward", note, {"training": known})


def _last_rewards(runs: list[RunData]) -> Point | None:
    means = []
    for run in runs:
        values = [value for _, value in run.metrics.get("reward", ()) if math.isfinite(value)]
        if values:
            last = values[-max(1, len(values) // _LAST) :]
            means.append(math.fsum(last) / len(last))
    if not means:
        return None
    return Point(math.fsum(means) / len(means), min(means), max(means))

"""Puts steps and phases, as a track of their own, into the Chrome trace that torch wrote.

Phases are the process's, not a thread's: one may begin inside DDP's forward, or on autograd's thread. As ranges on a
thread they would overlap others without nesting, which the format does not allow; on their own track they tile it.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import record_function

from .phases import Boundary

MARK = "mx-plugin clock"
TRACK = 2_000_000_000
"""Number of the track, above every thread's."""

_OPENING = re.compile(r'"traceEvents"\s*:\s*\[')
_NAME = re.compile(rf'"name":\s*"{MARK} (\w+ \d+)"')
_TS = re.compile(r'"ts":\s*([0-9.]+)')
_FAST = 3
_MARKS = 8


class Mark(NamedTuple):
    """One moment, ``at`` in seconds of ``time.perf_counter``; the trace has it as ``name``."""

    name: str
    at: float


def mark(name: str) -> Mark:
    """Leave short ranges in the trace, so that its clock can be compared with ours; the shortest counts."""
    found = []
    for number in range(_MARKS):
        one = f"{name} {number}"
        before = time.perf_counter()
        with record_function(f"{MARK} {one}"):
            pass
        after = time.perf_counter()
        found.append((after - before, Mark(one, (before + after) / 2)))
    return min(found)[1]


def add_phases(
    raw: Path, target: Path, start: Mark, end: Mark, track: list[Boundary], until: float, process: str
) -> str:
    """Write ``target`` (gzipped) from torch's ``raw`` with the ranges of ``track`` in it; the last ends at ``until``.

    Returns:
        why they are not in it, empty where they are.

    Raises:
        OSError: a file cannot be read or written; ``target`` is then not there.
    """
    moments = _moments(raw)
    why = "" if {start.name, end.name} <= moments.keys() else "torch's trace does not hold our marks of its clock"
    events: list[dict[str, Any]] = []
    if not why:
        place = _Clock(start, end, moments[start.name], moments[end.name])
        events = list(_events(place, start.at, until, track, process))
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        _copy(raw, temporary, events)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return why


class _Clock:
    """From our seconds to the trace's microseconds: a line through the two marks."""

    def __init__(self, start: Mark, end: Mark, first: float, last: float) -> None:
        self._from, self._to = start.at, first
        ours = end.at - start.at
        self._rate = (last - first) / ours if ours > 0 else 1e6

    def __call__(self, at: float) -> float:
        return round(self._to + (at - self._from) * self._rate, 3)


def _events(place: _Clock, start: float, end: float, track: list[Boundary], process: str) -> Iterator[dict[str, Any]]:
    where = {"pid": os.getpid(), "tid": TRACK}
    for what, args in (
        ("thread_name", {"name": f"phases {process}".strip()}),
        ("thread_sort_index", {"sort_index": -1}),
    ):
        yield {"ph": "M", "name": what, "ts": place(start), **where, "args": args}
    inside = [boundary._replace(at=min(max(boundary.at, start), end)) for boundary in track]
    for name, begins, ends, args in (*_steps(inside, end), *_phases(inside, end)):
        first, last = place(begins), place(ends)
        if last > first:
            yield {
                "ph": "X", "cat": "mx_plugin", "name": name, **where, "ts": first, "dur": round(last - first, 3),
                "args": args,
            }  # fmt: skip


Range = tuple[str, float, float, dict[str, Any]]


def _steps(track: list[Boundary], end: float) -> Iterator[Range]:
    for first, last in _runs([boundary.step for boundary in track]):
        yield f"step {track[first].step}", track[first].at, track[last].at if last < len(track) else end, {}


def _phases(track: list[Boundary], end: float) -> Iterator[Range]:
    for first, last in _runs([(boundary.step, boundary.phase) for boundary in track]):
        begun = track[first]
        yield begun.phase, begun.at, track[last].at if last < len(track) else end, {"step": begun.step}


def _runs(values: list[Any]) -> Iterator[tuple[int, int]]:
    """(first, one past the last) of each run of equal values."""
    first = 0
    for number in range(1, len(values) + 1):
        if number == len(values) or values[number] != values[first]:
            yield first, number
            first = number


def _moments(raw: Path) -> dict[str, float]:
    """Our marks in the trace's clock, by name."""
    found: dict[str, float] = {}
    with raw.open(encoding="utf-8", errors="replace") as lines:
        waiting = ""
        for line in lines:
            named = _NAME.search(line)
            if named:
                waiting = named[1]
            if waiting and (ts := _TS.search(line, named.end() if named else 0)):
                found[waiting], waiting = float(ts[1]), ""
    return found


def _copy(raw: Path, target: Path, events: Iterable[dict[str, Any]]) -> None:
    added = "".join(json.dumps(event) + ",\n" for event in events)
    with raw.open(encoding="utf-8") as lines, gzip.open(target, "wt", _FAST, encoding="utf-8") as out:
        for line in lines:
            opening = _OPENING.search(line) if added else None
            if opening:
                line, added = f"{line[: opening.end()]}\n{added}{line[opening.end() :]}", ""
            out.write(line)

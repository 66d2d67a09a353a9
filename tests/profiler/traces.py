"""Reads a Chrome trace as a viewer would, and says whether its ranges nest."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

EPSILON = 0.0021
"""Microseconds: torch writes three decimals, a range's end is a sum of two of them."""


class Range(NamedTuple):
    name: str
    start: float
    end: float


def load(path: Path) -> list[dict[str, Any]]:
    """The events; a trace that is not one raises."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        trace = json.load(file)
    events: list[dict[str, Any]] = trace["traceEvents"]
    for event in events:
        assert event["ph"] in "XMisft", event
        assert event["ph"] == "M" or isinstance(event["ts"], float | int), event
        assert event["ph"] != "X" or event["dur"] >= 0, event
    return events


def tracks(events: list[dict[str, Any]]) -> dict[tuple[Any, Any], list[Range]]:
    """Complete ranges by (process, thread), outer ones first."""
    found: dict[tuple[Any, Any], list[Range]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(Range(event["name"], event["ts"], event["ts"] + event["dur"]))
    for ranges in found.values():
        ranges.sort(key=lambda r: (r.start, -r.end))
    return dict(found)


def overlaps(ranges: list[Range]) -> list[tuple[str, str]]:
    """Pairs of ranges of one track of which neither holds the other, though they share time."""
    found: list[tuple[str, str]] = []
    stack: list[Range] = []
    for one in ranges:
        while stack and stack[-1].end <= one.start + EPSILON:
            stack.pop()
        if stack and one.end > stack[-1].end + EPSILON:
            found.append((stack[-1].name, one.name))
        stack.append(one)
    return found


def phase_track(events: list[dict[str, Any]]) -> list[Range]:
    """Our own track: steps and phases."""
    named = [e for e in events if e["ph"] == "M" and str(e["args"].get("name")).startswith("phases")]
    ours = {(e["pid"], e["tid"]) for e in named}
    assert len(ours) == 1
    return tracks(events)[ours.pop()]

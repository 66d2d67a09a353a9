"""Writes docs/architecture.svg: the rooms, and a line with an arrow for each import between two of them.

    .venv/bin/python docs/plots/architecture.py

Each room has a lane of its own colour: it leaves the room at a dot and has an arrow into every room that it imports.
Lanes of the core run at the right, those of adapters and hardware at the left.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rooms import Import, Room, built_rooms, imports
from svg import FAINT, Drawing

PICTURE = Path(__file__).parents[1] / "architecture.svg"

COLOURS = (
    ("#8f63e6", "#6a3fc0"), ("#3b8eea", "#0b5cb8"), ("#c2820a", "#855600"), ("#e0555f", "#b02f3a"),
    ("#31a354", "#1a7236"), ("#12a0a8", "#0a6a70"), ("#d163b0", "#9c3a80"), ("#7686e0", "#4656b8"),
    ("#a9803a", "#735320"), ("#8b96a1", "#57606a"),
)  # fmt: skip
"""Of a lane, which is seen on a light and on a dark page; of its room, darker, so that white can be read on it."""

WHITE, PALE = "#ffffff", "#ffffffd9"
BAR_LEFT, BAR_WIDTH, GAP = 118, 520, 12
BAR, PORT = 46, 7.5
"""Least height of a bar, and what each line needs that meets it."""

BAND, TITLE = 26, 20
LANE, FIRST_LANE = 17, 24
MARGIN = 14


def draw(rooms: Sequence[Room], found: Sequence[Import]) -> str:
    """The whole picture."""
    lanes = {room.name: [one for one in found if one.importer == room.name] for room in rooms}
    heights = {room.name: _height(room, found) for room in rooms}
    tops, bands, height = _places(rooms, heights)
    right = _ordered([room for room in rooms if room.band.startswith("core") and lanes[room.name]], lanes, tops)
    left = [room for room in rooms if not room.band.startswith("core") and lanes[room.name]]
    width = BAR_LEFT + BAR_WIDTH + FIRST_LANE + LANE * len(right) + MARGIN
    drawing = Drawing(width, height + 22)
    for title, (top, bottom) in bands.items():
        drawing.panel(BAR_LEFT - 10, top, BAR_WIDTH + 20, bottom - top, FAINT, "#8c959f12", 10)
        drawing.text(BAR_LEFT, top + 17, title, size=11, bold=True)
    colours = {room.name: COLOURS[place % len(COLOURS)] for place, room in enumerate([*right, *left])}
    for room in rooms:
        _bar(drawing, room, tops[room.name], heights[room.name], colours.get(room.name, COLOURS[-1])[1])
    ports = _ports(rooms, right, left, lanes, tops, heights)
    for place, room in enumerate(right):
        x = BAR_LEFT + BAR_WIDTH + FIRST_LANE + LANE * place
        _lane(drawing, room.name, lanes[room.name], x, BAR_LEFT + BAR_WIDTH, ports, colours[room.name][0])
    for place, room in enumerate(left):
        x = BAR_LEFT - FIRST_LANE - LANE * place
        _lane(drawing, room.name, lanes[room.name], x, BAR_LEFT, ports, colours[room.name][0])
    legend = "A lane leaves its room at the dot; an arrow points at a room that it imports; dashed: for types alone"
    drawing.text(BAR_LEFT - 10, height + 10, legend, size=11)
    return str(drawing)


def _height(room: Room, found: Sequence[Import]) -> float:
    """Room for every line at the busier of its sides, and for its own."""
    sides = [one.importer.startswith("mx_") for one in found if one.imported == room.name]
    return max(BAR, PORT * (max(sides.count(True), sides.count(False)) + 2))


def _places(
    rooms: Sequence[Room], heights: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, tuple[float, float]], float]:
    """Top of each room; top and bottom of each band; the height of all."""
    tops: dict[str, float] = {}
    bands: dict[str, tuple[float, float]] = {}
    y: float = 4
    for band in dict.fromkeys(room.band for room in rooms):
        top = y
        y += BAND
        for room in rooms:
            if room.band == band:
                tops[room.name] = y
                y += heights[room.name] + GAP
        bands[band] = (top, y)
        y += TITLE
    return tops, bands, y - TITLE + 10


def _ordered(rooms: list[Room], lanes: Mapping[str, list[Import]], tops: Mapping[str, float]) -> list[Room]:
    """Short lanes first: they lie next to the bars, inside the long ones."""

    def length(room: Room) -> float:
        ends = [tops[one.imported] for one in lanes[room.name]] + [tops[room.name]]
        return max(ends) - min(ends)

    return sorted(rooms, key=length)


def _ports(
    rooms: Sequence[Room],
    right: Sequence[Room],
    left: Sequence[Room],
    lanes: Mapping[str, list[Import]],
    tops: Mapping[str, float],
    heights: Mapping[str, float],
) -> dict[tuple[str, str], float]:
    """Height at which each lane meets each room: {(lane's room, room met): y}, spread over the bar's edge."""
    found: dict[tuple[str, str], float] = {}
    for side in (right, left):
        for room in rooms:
            meeting = [
                lane.name for lane in side
                if lane is room or any(one.imported == room.name for one in lanes[lane.name])
            ]  # fmt: skip
            # From above first: a lane whose room lies above arrives above its neighbours.
            meeting.sort(key=lambda name: (tops[name] > tops[room.name], name == room.name))
            for place, name in enumerate(meeting):
                found[name, room.name] = tops[room.name] + heights[room.name] * (place + 1) / (len(meeting) + 1)
    return found


def _lane(
    drawing: Drawing,
    name: str,
    own: Sequence[Import],
    x: float,
    edge: float,
    ports: Mapping[tuple[str, str], float],
    colour: str,
) -> None:
    start = ports[name, name]
    heights = [start, *(ports[name, one.imported] for one in own)]
    drawing.line(x, min(heights), x, max(heights), colour, 1.5)
    drawing.line(edge, start, x, start, colour, 1.5)
    drawing.dot(edge, start, colour, 3.5)
    for one in own:
        y, label = ports[name, one.imported], f"{name} imports {one.imported}"
        drawing.arrow(x, y, edge, colour, dashed=one.typing_only, label=label)


def _bar(drawing: Drawing, room: Room, top: float, height: float, colour: str) -> None:
    drawing.panel(BAR_LEFT, top, BAR_WIDTH, height, colour, colour, 6)
    middle = top + height / 2
    drawing.text(BAR_LEFT + 14, middle - 4, room.name, size=14, bold=True, colour=WHITE)
    drawing.text(BAR_LEFT + 14, middle + 13, room.about, size=12, colour=PALE)


if __name__ == "__main__":
    PICTURE.write_text(draw(built_rooms(), imports()), encoding="utf-8")
    print(PICTURE)

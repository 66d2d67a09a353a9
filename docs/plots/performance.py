"""Writes docs/performance.svg and the tables of docs/performance.md from what ``mx-plugin bench --json`` printed.

    mx-plugin bench --json > docs/performance.json
    python docs/plots/performance.py docs/performance.json

Needs nothing that is not in Python: the page is made where the measurement was, a machine without a browser.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from svg import FAINT, INK, Drawing
from tables import Row, tables

PAGE = Path(__file__).parents[1] / "performance.md"
PICTURE = PAGE.with_suffix(".svg")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

MET, MISSED = "#2da44e", "#d4732b"
COLOURS = ("#8250df", "#0969da", "#bf8700", "#cf222e", "#1a7f37", "#57606a")
TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12)
OFF_THE_CHART = 0.2
"""Curves that stay below are named with their best ratio instead of drawn: they would flatten all others."""

LEFT, RIGHT, TOP = 330, 60, 40
WIDTH, BAR, CHART, KEY = 900, 19, 260, 250


def draw(report: dict[str, Any]) -> str:
    """Two charts, one above the other: linear layers by rows of activations, and every line that has a target."""
    aimed = [row for row in report["rows"] if row["target"] is not None]
    curves = _curves(report["rows"])
    above = CHART + TOP + 60 if curves else 0
    below = TOP + BAR * len(aimed) + 60 if aimed else 0
    drawing = Drawing(WIDTH, above + below)
    if curves:
        _draw_curves(drawing, curves, 0)
    if aimed:
        _draw_bars(drawing, aimed, above)
    return str(drawing)


def _scale(values: list[float], start: float, end: float) -> Callable[[float], float]:
    """A logarithmic scale that takes ``values`` from ``start`` to ``end`` pixels, with a little room."""
    low, high = math.log(min(values) * 0.85), math.log(max(values) * 1.15)
    return lambda value: start + (end - start) * (math.log(value) - low) / (high - low)


# ---------------------------------------------------------------------------- by rows of activations


def _curves(rows: list[Row]) -> dict[str, dict[int, float]]:
    """{what: {rows of activations: ratio}} of the first shape; the baseline and computed limits left out."""
    cases = [row for row in rows if row["bench"] == "linear" and "limit" not in row["what"] and row["what"] != "bf16"]
    shape = cases[0]["case"].partition(" ")[0] if cases else ""
    found: dict[str, dict[int, float]] = {}
    for row in cases:
        if row["case"].partition(" ")[0] == shape:
            found.setdefault(row["what"], {})[int(row["case"].rpartition("=")[2])] = row["ratio"]
    return found


def _draw_curves(drawing: Drawing, curves: dict[str, dict[int, float]], top: float) -> None:
    drawn = {what: curve for what, curve in curves.items() if max(curve.values()) >= OFF_THE_CHART}
    counts = sorted({count for curve in curves.values() for count in curve})
    ratios = [ratio for curve in drawn.values() for ratio in curve.values()] + [1.0]
    left, right, bottom = 60, WIDTH - KEY, top + TOP + CHART
    across = _scale([float(count) for count in counts], left, right)
    up = _scale(ratios, bottom, top + TOP)
    drawing.text(
        20, top + 20, "Linear layer 4096 x 4096: times faster than bf16, by rows of activations (M)", bold=True
    )
    for tick in _ticks(ratios):
        drawing.line(left, up(tick), right, up(tick), INK if tick == 1 else FAINT)
        drawing.text(left - 8, up(tick) + 4, f"{tick:g}x", "end")
    for count in counts:
        drawing.text(across(count), bottom + 18, str(count), "middle")
    for place, (what, curve) in enumerate(curves.items()):
        y, colour = top + TOP + 14 + 20 * place, COLOURS[place % len(COLOURS)]
        if what not in drawn:
            drawing.text(right + 30, y, f"{what}: {max(curve.values()):.2g}x")
            continue
        points = [(across(count), up(ratio)) for count, ratio in sorted(curve.items())]
        drawing.curve(points, colour)
        for point in points:
            drawing.dot(*point, colour)
        drawing.dot(right + 20, y - 4, colour, 4)
        drawing.text(right + 30, y, what)


def _ticks(values: list[float]) -> list[float]:
    return [tick for tick in TICKS if min(values) * 0.85 <= tick <= max(values) * 1.15]


# ---------------------------------------------------------------------------- against targets


def _draw_bars(drawing: Drawing, rows: list[Row], top: float) -> None:
    values = [value for row in rows for value in (row["ratio"], row["target"], row["stretch"])] + [1.0]
    across = _scale(values, LEFT, WIDTH - RIGHT)
    drawing.text(
        20, top + 20, "Every line with a target: measured (bar), target (thick mark), stretch (thin)", bold=True
    )
    bottom = top + TOP + BAR * len(rows)
    for tick in _ticks(values):
        drawing.line(across(tick), top + TOP, across(tick), bottom, INK if tick == 1 else FAINT)
        drawing.text(across(tick), bottom + 18, f"{tick:g}x", "middle")
    for place, row in enumerate(rows):
        y = top + TOP + BAR * place
        begin, end = sorted((across(1.0), across(row["ratio"])))
        drawing.text(LEFT - 8, y + 13, _label(row), "end", size=11)
        drawing.bar(begin, y + 4, end - begin, BAR - 8, MET if row["met"] else MISSED)
        drawing.line(across(row["target"]), y + 1, across(row["target"]), y + BAR - 1, INK, 3)
        drawing.line(across(row["stretch"]), y + 1, across(row["stretch"]), y + BAR - 1, INK, 1)
        drawing.text(WIDTH - RIGHT + 8, y + 13, f"{row['ratio']:.2f}x", size=11, colour=MET if row["met"] else MISSED)
    drawing.bar(20, bottom + 32, 10, 10, MET)
    drawing.text(36, bottom + 41, "met", size=11)
    drawing.bar(76, bottom + 32, 10, 10, MISSED)
    drawing.text(92, bottom + 41, "missed", size=11)


def _label(row: Row) -> str:
    case = row["case"].replace("4096x4096", "").strip()
    return f"{row['bench']} {case} {row['what']}"


# ---------------------------------------------------------------------------- the files


def page(text: str, report: dict[str, Any]) -> str:
    """performance.md with its measured part made anew."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} has no {BEGIN} ... {END}: put them where the tables belong")
    return f"{before}{BEGIN}\n\n{tables(report)}\n\n{END}{after}"


def main(source: str) -> None:
    report = json.loads(Path(source).read_text(encoding="utf-8"))
    PICTURE.write_text(draw(report), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), report), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/plots/performance.py docs/performance.json")
    main(sys.argv[1])

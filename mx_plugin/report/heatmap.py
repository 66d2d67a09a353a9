"""The heat-map of a sensitivity matrix, layer x phase, as one SVG file, or an HTML page around it.

Each phase and role is a panel with a colour scale of its own, because costs of different units are never compared.
Plain text, no library: a profile can draw it wherever it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import MXError
from ..precision.matrix import MatrixRow, SensitivityMatrix

SUFFIXES = (".svg", ".html")

_CELL, _ROW, _GAP, _HEAD, _FOOT, _PAD = 58, 17, 26, 62, 48, 8
_CHARACTER = 6.2
"""Pixels of a character at the font size of layer names: an estimate that is wide enough for common fonts."""
_INK = "#6e7781"
"""Shows on a light and on a dark page alike."""
_RAMP = ((255, 247, 228), (246, 173, 85), (190, 70, 30), (74, 16, 22))
_NONE, _BROKEN = "#8c959f33", "#111111"


@dataclass(frozen=True)
class Panel:
    """One phase and role: ``costs`` by (layer, format), all in one unit."""

    title: str
    unit: str
    formats: tuple[str, ...]
    costs: dict[tuple[str, str], float]

    def shade(self, cost: float) -> float:
        """0 for the least finite cost above zero, 1 for the largest, evenly in the logarithm; 0 for zero."""
        low, high = self.ends
        if cost <= low or high <= low:
            return 0.0 if cost <= low else 1.0
        return min(math.log(cost / low) / math.log(high / low), 1.0)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest finite cost above zero; (0, 0) where there is none."""
        found = [cost for cost in self.costs.values() if 0 < cost < math.inf]
        return (min(found), max(found)) if found else (0.0, 0.0)


def panels(matrix: SensitivityMatrix) -> list[Panel]:
    """One for each phase and role, in the matrix's order; formats from the narrowest weights to the widest."""
    found = []
    for phase, role in dict.fromkeys((row.phase, row.role) for row in matrix.rows):
        rows = [row for row in matrix.rows if (row.phase, row.role) == (phase, role)]
        formats = sorted(dict.fromkeys(row.format for row in rows), key=lambda fmt: _bits(rows, fmt))
        costs = {(row.layer, row.format): row.cost for row in rows}
        found.append(Panel(f"{phase} / {role}", f"{rows[0].metric}, {rows[0].measure}", tuple(formats), costs))
    return found


def heatmap(matrix: SensitivityMatrix, title: str = "What each format costs, layer by layer") -> str:
    """The SVG: layers from top to bottom in the matrix's order, panels from left to right, each cost in its cell."""
    layers = list(dict.fromkeys(row.layer for row in matrix.rows))
    names = _shortened(layers)
    left = max(len(name) for name in names) * _CHARACTER + 2 * _PAD
    found = panels(matrix)
    width = left + sum(max(len(p.formats) * _CELL, _least(p)) + _GAP for p in found)
    height = _HEAD + len(layers) * _ROW + _FOOT
    parts = [_text(_PAD, 18, title, size=14, bold=True)]
    parts += [
        _text(left - _PAD, _HEAD + (i + 0.7) * _ROW, name, anchor="end", tip=layer)
        for i, (layer, name) in enumerate(zip(layers, names, strict=True))
    ]
    x = left
    for panel in found:
        parts += _panel(panel, layers, x)
        x += max(len(panel.formats) * _CELL, _least(panel)) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" font-family="system-ui, Helvetica, Arial, sans-serif" role="img">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>", ""])


def check_path(path: str | Path) -> Path:
    """Where a heat-map can be written.

    Raises:
        MXError: another ending than ``.svg`` or ``.html``, or no such folder.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise MXError(f"heat-map {path}: the ending {path.suffix!r} cannot be drawn; give .svg or .html")
    if not path.parent.is_dir():
        raise MXError(f"heat-map {path}: the folder {path.parent} does not exist; make it first")
    return path


def write_heatmap(path: str | Path, matrix: SensitivityMatrix, title: str | None = None) -> Path:
    """Draw and write.

    Raises:
        MXError: see :func:`check_path`; or the file cannot be written.
    """
    path = check_path(path)
    drawn = heatmap(matrix) if title is None else heatmap(matrix, title)
    if path.suffix == ".html":
        drawn = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Sensitivity</title>\n'
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">\n'
            f'</head><body style="overflow-x:auto">\n{drawn}</body></html>\n'
        )
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise MXError(f"cannot write the heat-map {path}: {error.strerror or error}") from error
    return path


# ---------------------------------------------------------------------------- parts


def _panel(panel: Panel, layers: Sequence[str], left: float) -> Iterator[str]:
    yield _text(left, 36, panel.title, bold=True)
    for column, fmt in enumerate(panel.formats):
        yield _text(left + (column + 0.5) * _CELL, _HEAD - 10, fmt, anchor="middle")
    for row, layer in enumerate(layers):
        for column, fmt in enumerate(panel.formats):
            x, y = left + column * _CELL, _HEAD + row * _ROW
            yield from _cell(panel, x, y, panel.costs.get((layer, fmt)), f"{layer}, {panel.title}, {fmt}")
    yield from _legend(panel, left, _HEAD + len(layers) * _ROW + 10)


def _cell(panel: Panel, x: float, y: float, cost: float | None, where: str) -> Iterator[str]:
    if cost is None:
        yield _box(x, y, _NONE, f"{where}: not profiled")
        return
    fill, ink = (_BROKEN, "#ffffff") if cost == math.inf else _colours(panel.shade(cost))
    tip = f"{where}: {cost:.4g} ({panel.unit})"
    yield _box(x, y, fill, tip)
    yield _text(x + _CELL / 2, y + 0.7 * _ROW, _number(cost), anchor="middle", colour=ink, size=10, tip=tip)


def _legend(panel: Panel, x: float, y: float) -> Iterator[str]:
    low, high = panel.ends
    steps, width = 24, len(panel.formats) * _CELL - 2
    for step in range(steps):
        fill, start = _colours(step / (steps - 1))[0], x + step * width / steps
        yield f'<rect x="{start:.1f}" y="{y}" width="{width / steps + 0.5:.1f}" height="7" fill="{fill}"/>'
    yield _text(x, y + 19, _number(low), size=10)
    yield _text(x + width, y + 19, _number(high), anchor="end", size=10)
    yield _text(x, y + 32, f"{panel.unit}, logarithmic", size=10)


def _least(panel: Panel) -> float:
    """Pixels that the panel's words need."""
    return max(len(panel.title) * 7.0, (len(panel.unit) + 13) * 5.4)


def _colours(shade: float) -> tuple[str, str]:
    """(fill, ink) between the ramp's colours."""
    place = shade * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    mixed = [round(a + (b - a) * (place - index)) for a, b in zip(_RAMP[index], _RAMP[index + 1], strict=True)]
    bright = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2]  # ITU-R BT.601's luma
    return "#{:02x}{:02x}{:02x}".format(*mixed), "#1f2328" if bright > 140 else "#ffffff"


def _number(cost: float) -> str:
    if cost == math.inf:
        return "inf"
    return (
        f"{cost:.2g}" if 0.001 <= cost < 1000 or cost == 0 else f"{cost:.1e}".replace("e-0", "e-").replace("e+0", "e")
    )


def _shortened(layers: Sequence[str]) -> list[str]:
    """Names without the components that all of them begin with; an output head, whose name is one word, aside."""
    parts = [layer.split(".") for layer in layers if "." in layer]
    common = 0
    while parts and all(len(each) > common + 1 and each[common] == parts[0][common] for each in parts):
        common += 1
    return [".".join(layer.split(".")[common:]) if "." in layer else layer for layer in layers]


def _bits(rows: Sequence[MatrixRow], fmt: str) -> float:
    return next(row.bits_per_weight for row in rows if row.format == fmt)


def _box(x: float, y: float, fill: str, tip: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL - 2}" height="{_ROW - 2}" rx="2" fill="{fill}">'
        f"<title>{escape(tip)}</title></rect>"
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = _INK, size: int = 11, bold: bool = False,
    tip: str = "",
) -> str:  # fmt: skip
    weight = ' font-weight="bold"' if bold else ""
    inner = escape(text) + (f"<title>{escape(tip)}</title>" if tip else "")
    style = f'text-anchor="{anchor}" fill="{colour}" font-size="{size}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{inner}</text>'

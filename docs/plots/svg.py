"""A drawing as text: the few SVG elements that a chart needs, readable on white and on black."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, FAINT = "#6e7781", "#8c959f66"
"""Greys that show on a light and on a dark page alike."""


class Drawing:
    """Elements in order; coordinates in pixels from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.elements: list[str] = []

    def _add(self, name: str, text: str | None = None, **attributes: object) -> None:
        words = " ".join(f'{key.replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items())
        self.elements.append(f"<{name} {words}/>" if text is None else f"<{name} {words}>{escape(text)}</{name}>")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1) -> None:
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._add("rect", x=x, y=y, width=max(width, 0.5), height=height, fill=colour, rx=1.5)

    def panel(self, x: float, y: float, width: float, height: float, edge: str, fill: str, radius: float) -> None:
        """A box with an edge; ``fill`` with its own transparency, so that it suits both pages."""
        self._add("rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=edge, stroke_width=1)

    def arrow(self, x1: float, y: float, x2: float, colour: str, *, dashed: bool = False, label: str = "") -> None:
        """A level line from ``x1`` with its head at ``x2``; the label is what a reader of the file, or a test, sees."""
        back = x2 + (7 if x1 > x2 else -7)
        marks = {"stroke_dasharray": "3 3"} if dashed else {}
        self._add("path", d=f"M{_short(x1)} {_short(y)}H{_short(back)}", stroke=colour, stroke_width=1.5, fill="none",
                  **marks, aria_label=label)  # fmt: skip
        head = f"{_short(x2)},{_short(y)} {_short(back)},{_short(y - 3.5)} {_short(back)},{_short(y + 3.5)}"
        self._add("polygon", points=head, fill=colour)

    def dot(self, x: float, y: float, colour: str, radius: float = 3) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=colour)

    def curve(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        path = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
        self._add("polyline", points=path, fill="none", stroke=colour, stroke_width=2)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        anchor: str = "start",
        colour: str = INK,
        size: int = 12,
        bold: bool = False,
    ) -> None:
        weight = "bold" if bold else "normal"
        self._add("text", text, x=x, y=y, text_anchor=anchor, fill=colour, font_size=size, font_weight=weight)

    def __str__(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_short(self.width)} {_short(self.height)}" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">'
        )
        return "\n".join([head, *self.elements, "</svg>", ""])


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)

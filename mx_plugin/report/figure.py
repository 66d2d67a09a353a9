"""A figure of the page: plotly's data and layout as plain data, so that nothing but the page's script draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Figure:
    """``key`` names its element; ``note`` is plain text below it. ``points``: how many marks it must show."""

    key: str
    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""
    height: int = 360

    @property
    def points(self) -> int:
        """Marks with a finite position, cells of a heat-map or of a treemap; invisible helpers count too."""
        return sum(_points(trace) for trace in self.data)


def _points(trace: dict[str, Any]) -> int:
    if trace.get("type") == "heatmap":
        return sum(len(row) for row in trace["z"])
    if trace.get("type") == "treemap":
        return len(trace["labels"])
    values = trace.get("x" if trace.get("orientation") == "h" else "y", ())
    return sum(v is not None and (isinstance(v, str) or math.isfinite(v)) for v in values)


def label(text: str) -> str:
    """Text for plotly, which reads a few HTML tags in labels: everything is shown as it is written."""
    return escape(text, quote=False)


def axis(title: str, **further: Any) -> dict[str, Any]:
    """An axis with a title that takes its own room.

    Without ``standoff``: with it plotly.js 4.1 places titles at infinity while a figure is still without size.
    """
    return {"title": {"text": title}, "automargin": True, "zeroline": False, **further}


def layout(x: dict[str, Any], y: dict[str, Any], **further: Any) -> dict[str, Any]:
    """Colours and fonts are the page's: its script sets them, for both colour schemes."""
    return {
        "xaxis": x, "yaxis": y, "margin": {"l": 8, "r": 12, "t": 12, "b": 8}, "showlegend": False,
        "hovermode": "closest", "dragmode": False, **further,
    }  # fmt: skip


def spread(values: list[float]) -> tuple[float, float, float]:
    """(mean, mean - least, largest - mean)."""
    mean = math.fsum(values) / len(values)
    return mean, mean - min(values), max(values) - mean

"""docs/performance.md and its picture are what docs/plots makes of docs/performance.json, and show its figures."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def plots() -> Iterator[ModuleType]:
    """The script, imported as it runs: from its own folder."""
    sys.path.insert(0, str(DOCS / "plots"))
    import performance

    yield performance
    sys.path.remove(str(DOCS / "plots"))


@pytest.fixture
def report() -> dict[str, Any]:
    """What was measured last."""
    found: dict[str, Any] = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
    return found


def test_the_page_and_its_picture_show_the_measured_figures(plots: ModuleType, report: dict[str, Any]) -> None:
    text = plots.PAGE.read_text(encoding="utf-8")
    assert text == plots.page(text, report), "run: python docs/plots/performance.py docs/performance.json"
    assert plots.PICTURE.read_text(encoding="utf-8") == plots.draw(report)


def test_every_row_stands_in_a_table(plots: ModuleType, report: dict[str, Any]) -> None:
    text = plots.tables(report)
    for row in report["rows"]:
        assert f"| {row['what']} |" in text, row
    assert text.count(" missed") == sum(row["met"] is False for row in report["rows"])
    assert text.count(" met") == sum(row["met"] is True for row in report["rows"])


def test_the_picture_has_a_bar_for_each_target_in_the_colour_of_its_verdict(
    plots: ModuleType, report: dict[str, Any]
) -> None:
    svg = ElementTree.fromstring(plots.draw(report))
    bars = [element.get("fill") for element in svg.iter("{http://www.w3.org/2000/svg}rect")]
    aimed = [row for row in report["rows"] if row["target"] is not None]
    met = sum(row["met"] for row in aimed)
    key = 1
    assert (bars.count(plots.MET), bars.count(plots.MISSED)) == (met + key, len(aimed) - met + key)


def test_a_faster_run_has_a_longer_bar(plots: ModuleType, report: dict[str, Any]) -> None:
    def widths(rows: list[dict[str, Any]]) -> list[float]:
        svg = ElementTree.fromstring(plots.draw({**report, "rows": rows}))
        bars = svg.iter("{http://www.w3.org/2000/svg}rect")
        return [float(bar.get("width", "0")) for bar in bars][: len(rows)]

    first = next(row for row in report["rows"] if row["target"] is not None)
    slow, fast = copy.deepcopy(first), copy.deepcopy(first)
    slow.update(bench="x", ratio=2.0)
    fast.update(bench="x", ratio=4.0)
    short, long = widths([slow, fast])
    assert long == pytest.approx(2 * short, abs=0.2), "logarithmic, from 1x"


def test_text_is_escaped(plots: ModuleType, report: dict[str, Any]) -> None:
    row = next(copy.deepcopy(row) for row in report["rows"] if row["target"] is not None)
    row.update(bench="x", what="<b> & co")
    svg = ElementTree.fromstring(plots.draw({**report, "rows": [row]}))
    assert any("<b> & co" in (element.text or "") for element in svg.iter())


def test_a_page_without_the_place_for_tables_is_refused(plots: ModuleType, report: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=r"measured: begin"):
        plots.page("# Performance\n", report)

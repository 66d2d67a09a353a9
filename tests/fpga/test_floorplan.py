"""Each multiplier of a tile gets a place of its own, near those that it works with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import load

floorplan = load("hardware/syn/floorplan.py")


def netlist(folder: Path, rows: int, columns: int, lanes: int = 32) -> Path:
    """What yosys names the multipliers of a tile, beside one of the board's and a cell that is none."""
    units = [(r, c, i) for r in range(rows) for c in range(columns) for i in range(lanes)]
    names = [f"core.tile.g_unit_row[{r}].g_unit[{c}].unit.dot.g_lane[{i}].multiply.multiplier" for r, c, i in units]
    cells = {name: {"type": "MULT18X18D", "attributes": {"src": "a.sv:1"}} for name in [*sorted(names), "core.bytes"]}
    cells["tile.g_unit_row[0].g_unit[0].unit.dot.g_lane[0].sum"] = {"type": "LUT4", "attributes": {}}
    path = folder / "tile.json"
    path.write_text(json.dumps({"modules": {"MULT18X18D": {}, "top": {"cells": cells}}}))
    return path


def pinned(folder: Path, rows: int, columns: int) -> dict[str, str | None]:
    """Place by name."""
    path = floorplan.pin(netlist(folder, rows, columns))
    cells: dict[str, Any] = json.loads(path.read_text())["modules"]["top"]["cells"]
    return {name: cell["attributes"].get("BEL") for name, cell in cells.items()}


def block(place: str) -> tuple[int, int]:
    """Column and row of the DSP block of a place."""
    found = re.fullmatch(r"X(\d+)/Y(\d+)/MULT18_[0145]", place)
    assert found
    x, y = map(int, found.groups())
    return max(column for column in floorplan.BLOCK_COLUMNS if column <= x), y


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 1), (2, 2)])
def test_multipliers_of_lanes_have_places_of_their_own_and_others_none(tmp_path: Path, rows: int, columns: int) -> None:
    places = pinned(tmp_path, rows, columns)
    lanes = [place for name, place in places.items() if name.endswith("multiplier")]
    assert None not in lanes and len(set(lanes)) == len(lanes) == 32 * rows * columns
    assert [name for name, place in places.items() if place is None] == [
        "core.bytes", "tile.g_unit_row[0].g_unit[0].unit.dot.g_lane[0].sum",
    ]  # fmt: skip


def test_a_lane_of_four_units_lies_in_one_block_and_the_next_lane_beside_it(tmp_path: Path) -> None:
    blocks: dict[int, set[tuple[int, int]]] = {}
    for name, place in pinned(tmp_path, 2, 2).items():
        lane = re.search(r"g_lane\[(\d+)\]\.multiply", name)
        if lane and place:
            blocks.setdefault(int(lane[1]), set()).add(block(place))
    order = [blocks[lane].pop() for lane in range(32)]
    assert not any(blocks.values()) and len(set(order)) == 32
    for (x, y), (next_x, next_y) in zip(order[::2], order[1::2], strict=True):
        assert y == next_y and next_x - x <= 11


def test_the_netlist_itself_stays_as_it_was(tmp_path: Path) -> None:
    path = netlist(tmp_path, 1, 1)
    before = path.read_bytes()
    assert floorplan.pin(path) != path and path.read_bytes() == before


def test_more_multipliers_than_places_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="192 multipliers, 128 places"):
        floorplan.pin(netlist(tmp_path, 3, 2))

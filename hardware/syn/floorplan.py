"""A place in the device for every multiplier of a tile, written into its netlist.

nextpnr's placers solve for wire length as if DSP blocks might lie anywhere, and then take for each the nearest that is
free: by then a lane's multipliers, which share their operands, and the lanes whose products are added first lie in
different corners. Here they stay together: a DSP block holds the multipliers of one lane, or of neighbouring lanes, and
neighbouring blocks those of neighbouring lanes, in the order in which mx_sum adds them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

BLOCK_COLUMNS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
"""X of the DSP blocks in each DSP row of an LFE5U-85F, from where nextpnr puts multipliers (``--write``)."""
MULTIPLIERS = ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"), (5, "MULT18_5"))
"""Of a block: columns to the right of its X, and name."""
STRIPS = ((10, 0), (34, 0), (10, 4), (34, 4), (10, 8), (34, 8), (58, 4), (58, 8))
"""Four blocks each, in the order of the lanes: Y of the DSP row, first of its four columns. Two above each other are
added together, then two such pairs."""
MULTIPLIER = re.compile(r"g_unit_row\[(\d+)\]\.g_unit\[(\d+)\]\..*g_lane\[(\d+)\]\.")


def places() -> list[str]:
    """The names of the multipliers' places, lane by lane."""
    return [
        f"X{BLOCK_COLUMNS[first + block] + right}/Y{y}/{name}"
        for y, first in STRIPS
        for block in range(4)
        for right, name in MULTIPLIERS
    ]


def pin(netlist: Path) -> Path:
    """Write the netlist again beside itself, with a place for each multiplier of a tile; others are left to nextpnr.

    A tile of more multipliers than there are ``places`` raises ValueError.
    """
    design: dict[str, Any] = json.loads(netlist.read_text())
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for module in design["modules"].values():
        for name, cell in module.get("cells", {}).items():
            unit = MULTIPLIER.search(name) if cell["type"] == "MULT18X18D" else None
            if unit:
                row, column, lane = map(int, unit.groups())
                found[lane, row, column] = cell
    if len(found) > len(places()):
        raise ValueError(f"{netlist}: {len(found)} multipliers, {len(places())} places: give STRIPS more")
    for (_, cell), place in zip(sorted(found.items(), key=lambda item: item[0]), places(), strict=False):
        cell["attributes"]["BEL"] = place
    pinned = netlist.with_suffix(".pinned.json")
    pinned.write_text(json.dumps(design))
    return pinned

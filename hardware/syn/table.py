"""The figures of docs/fpga.md's "Synthesis", from report.json: ``python hardware/syn/table.py`` writes them there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPORT = HERE / "report.json"
PAGE = HERE.parents[1] / "docs" / "fpga.md"
BEGIN, END = "<!-- hardware/syn/table.py writes this -->", "<!-- to here -->"
DESIGNS = ("dot", "tile", "ulx3s")
HEADER = "| design | MAC/cycle | DSP | LUT4 | LUT4/MAC | flip-flops | block RAM | MHz by seed | slowest | GMAC/s | bitstream |"  # noqa: E501


def table(report: dict[str, Any]) -> str:
    """Markdown: a row for each design, a dash where the report has no figure."""
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for name, part in report.items():
        seeds = ", ".join(f"{seed}: {mhz:.1f}" for seed, mhz in part.get("fmax_mhz_by_seed", {}).items())
        bitstream = part.get("bitstream_bytes")
        cells = (
            f"`{name}`", part["macs_per_cycle"], part["dsps"], part["luts"], part["luts_per_mac"], part["flip_flops"],
            part["block_rams"], seeds or None, part.get("fmax_mhz"), part.get("gmacs_per_s"),
            bitstream and f"{bitstream / 1024:.0f} KiB",
        )  # fmt: skip
        lines.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    tools = sorted({f"{tool} {version}" for part in report.values() for tool, version in part["tools"].items()})
    devices = sorted({part["device"] for part in report.values()})
    lines += ["", f"{'; '.join(devices)}; {', '.join(tools)}."]
    return "\n".join([*lines, *shortfalls(report)])


def shortfalls(report: dict[str, Any]) -> list[str]:
    """A line for the designs whose clock rate is open, and one for each threshold that a figure misses."""
    unrouted = [f"`{name}`" for name in DESIGNS if "fmax_mhz" not in report.get(name, {})]
    lines = []
    if unrouted:
        lines.append(f"Not placed and routed with all five seeds: {', '.join(unrouted)}.")
        lines.append("What their other seeds would reach is open.")
    for name, part in report.items():
        for word, sign in (("most", 1), ("least", -1)):
            limits = part["thresholds"][word].items()
            lines += [
                f"Missed: `{name}`, {k} {part[k]}, at {word} {v}." for k, v in limits if sign * (part.get(k, v) - v) > 0
            ]
    return lines


def replaced(page: str, figures: str) -> str:
    """The page with these figures between its two marks.

    Raises:
        ValueError: the page does not have the marks once each, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"{PAGE.name} must hold {BEGIN!r} and, below, {END!r}, once each")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def main() -> int:
    PAGE.write_text(replaced(PAGE.read_text(), table(json.loads(REPORT.read_text()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

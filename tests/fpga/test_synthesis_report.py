"""What hardware/syn/report.json holds, what the docs say of it, and when the build fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import ROOT, load

SYN = ROOT / "hardware" / "syn"
build, table = load("hardware/syn/build.py"), load("hardware/syn/table.py")
REPORT: dict[str, dict[str, Any]] = json.loads((SYN / "report.json").read_text())


def test_the_docs_show_the_report() -> None:
    page = table.PAGE.read_text()
    assert table.replaced(page, table.table(REPORT)) == page, "run: python hardware/syn/table.py"


def test_the_docs_name_what_is_missed_and_what_is_open() -> None:
    part = {"thresholds": {"most": {"dsps": 32}, "least": {"fmax_mhz": 100}}, "dsps": 33, "fmax_mhz": 98.5}
    assert tuple(build.DESIGNS) == table.DESIGNS
    assert table.shortfalls({"dot": part}) == [
        "Not placed and routed with all five seeds: `tile`, `ulx3s`.",
        "What their other seeds would reach is open.",
        "Missed: `dot`, dsps 33, at most 32.",
        "Missed: `dot`, fmax_mhz 98.5, at least 100.",
    ]


@pytest.mark.parametrize("name", REPORT)
def test_a_design_of_the_report_is_one_that_is_built_and_keeps_its_thresholds(name: str) -> None:
    part, design = REPORT[name], build.DESIGNS[name]
    assert part["thresholds"] == {"most": design.most, "least": design.least}, "run: make fpga"
    assert part["macs_per_cycle"] == design.macs and set(part["tools"]) == set(build.TOOLS)
    assert part["luts_per_mac"] == round(part["luts"] / design.macs, 1)
    assert (
        build.missed(name, {k: v for k, v in part.items() if k in design.most} | {"thresholds": part["thresholds"]})
        == []
    )
    rates = {int(seed): mhz for seed, mhz in part.get("fmax_mhz_by_seed", {}).items()}
    if rates:
        expected = build.speed(design, rates)
        assert {k: part.get(k) for k in ("fmax_mhz", "gmacs_per_s")} == {
            k: expected.get(k) for k in ("fmax_mhz", "gmacs_per_s")
        }


def test_the_pinned_tools_are_those_of_the_report() -> None:
    pins = dict(
        line.split("==")
        for line in (SYN.parents[1] / "requirements" / "fpga.txt").read_text().splitlines()
        if "==" in line
    )
    for part in REPORT.values():
        assert part["tools"] == {tool: pins[tool] for tool in build.TOOLS}, "run: make fpga"


def test_a_clock_rate_takes_every_seed() -> None:
    design = build.DESIGNS["dot"]
    assert build.speed(design, {1: 120.004, 2: 110.0}) == {"fmax_mhz_by_seed": {"1": 120.0, "2": 110.0}}
    all_ = build.speed(design, dict(zip(build.SEEDS, (120.0, 110.0, 130.0, 101.5, 140.0), strict=True)))
    assert (all_["fmax_mhz"], all_["gmacs_per_s"]) == (101.5, 3.25)


def test_seeds_of_a_report_are_kept_if_it_was_made_from_the_same() -> None:
    """Several machines, or days, may share them."""
    earlier = {"made_from": "abc", "fmax_mhz_by_seed": {"1": 113.82, "3": 110.0}}
    assert build.known_rates(earlier, "abc") == {1: 113.82, 3: 110.0}
    assert build.known_rates(earlier, "abd") == {}
    assert build.known_rates({}, "abc") == {}
    assert list(build.speed(build.DESIGNS["dot"], {3: 1.0, 1: 2.0})["fmax_mhz_by_seed"]) == ["1", "3"]


@pytest.mark.parametrize("name", REPORT)
def test_the_reports_seeds_are_those_of_the_sources_that_stand_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "version", REPORT[name]["tools"].__getitem__)
    assert REPORT[name]["made_from"] == build.origin(build.DESIGNS[name]), "sources changed since: run: make fpga"


def test_an_area_that_differs_from_the_reports_is_named() -> None:
    part = {"made_from": "abc", "luts": 10, "flip_flops": 2, "dsps": 1, "block_rams": 0, "luts_per_mac": 10.0}
    assert build.differing("dot", part, part) == []
    assert build.differing("dot", part, {**part, "luts": 11}) == ["dot: luts is 10, 11 in the report"]
    assert build.differing("dot", part, {**part, "luts": 11, "made_from": "abd"}) == []


def test_missed_thresholds_and_seeds_are_named() -> None:
    limits = {"thresholds": {"most": {"dsps": 32}, "least": {"fmax_mhz": 100}}}
    assert build.missed("dot", {**limits, "dsps": 32}) == []
    assert build.missed("dot", {**limits, "dsps": 33, "fmax_mhz": 99.9}) == [
        "dot: dsps is 33, at most 32", "dot: fmax_mhz is 99.9, at least 100",
    ]  # fmt: skip
    (fault,) = build.missed("dot", {**limits, "dsps": 1, "fmax_mhz_by_seed": {"1": 120.0, "3": 130.0}})
    assert "seeds 1, 3 only" in fault


def test_area_counts_carry_chains_and_small_memories_as_lookup_tables() -> None:
    cells = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "MULT18X18D": 4, "DP16KD": 1, "PFUMX": 9}
    assert build.area(cells, 4) == {
        "luts": 28, "flip_flops": 7, "dsps": 4, "block_rams": 1, "luts_per_mac": 7.0
    }  # fmt: skip


def test_results_are_kept_for_the_same_sources_only(tmp_path: Path) -> None:
    source, result = tmp_path / "a.sv", tmp_path / "a.json"
    source.write_text("module a; endmodule")
    made_from = build.digest("a", source)
    assert build.kept(result, made_from) is None
    build.keep(result, made_from, 118.5)
    assert build.kept(result, build.digest("a", source)) == 118.5
    source.write_text("module a; logic b; endmodule")
    assert build.kept(result, build.digest("a", source)) is None


@pytest.mark.parametrize("name", build.DESIGNS)
def test_the_sources_of_a_design_exist(name: str) -> None:
    paths = build.sources(build.DESIGNS[name])
    assert len(paths) == len(set(paths)) and all(path.is_file() for path in paths)
    assert {"mx_multiply.sv", f"{build.DESIGNS[name].area_of.removeprefix('ulx3s') or 'top'}.sv"} <= {
        p.name for p in paths
    }

"""The list of faults that the proofs of hardware/formal must notice: each has its place in the RTL."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

HARDWARE = Path(__file__).resolve().parents[2] / "hardware"
spec = importlib.util.spec_from_file_location("formal_broken", HARDWARE / "formal" / "broken.py")
assert spec and spec.loader
broken = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = broken
spec.loader.exec_module(broken)


@pytest.mark.parametrize(
    "fault", [fault for faults in broken.FAULTS.values() for fault in faults], ids=lambda fault: fault.right.strip()
)
def test_a_fault_has_one_place(fault: broken.Fault) -> None:
    source = (HARDWARE / "rtl" / f"{fault.module}.sv").read_text()
    assert source.count(fault.right) == 1 and fault.wrong != fault.right


def test_the_framer_counts_the_transmitters_states_as_it_does() -> None:
    declared = re.search(
        r"typedef enum logic \[2:0\] {(.*)} state_t", (HARDWARE / "rtl" / "mx_transmit.sv").read_text()
    )
    repeated = re.search(r"localparam logic \[2:0\] (.*);", (HARDWARE / "formal" / "framer.sv").read_text())
    assert declared and repeated
    names = declared[1].split(", ")
    assert repeated[1].split(", ") == [f"{name} = 3'd{number}" for number, name in enumerate(names)]

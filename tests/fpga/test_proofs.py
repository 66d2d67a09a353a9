"""The list of faults that the proofs of hardware/formal must notice: each has its place in the RTL."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.scripts import ROOT, load

HARDWARE = ROOT / "hardware"
broken = load("hardware/formal/broken.py")


@pytest.mark.parametrize(
    "fault", [fault for faults in broken.FAULTS.values() for fault in faults], ids=lambda fault: fault.right.strip()
)
def test_a_fault_has_one_place(fault: Any) -> None:
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

"""The RTL's constants are what the Python tables say."""

from __future__ import annotations

from mx_fpga import generate


def test_the_committed_constants_are_those_that_are_generated() -> None:
    assert generate.CONSTANTS.read_text(encoding="utf-8") == generate.constants(), "run python -m mx_fpga.generate"

"""A simulated board for the tests that need one: built once, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mx_fpga.simulator import Model, Simulator
from mx_fpga.verilator import VerilatorMissing, find
from tests.fpga.raw_board import RawBoard

SMALL = Model(memory_bytes=1 << 20, handles=16)
"""Small enough that a test can fill it; the tile is the default one."""


@pytest.fixture(scope="session")
def verilator() -> None:
    """Skips, saying how to install it, where Verilator is absent."""
    try:
        find()
    except VerilatorMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def simulator(verilator: None) -> Iterator[Simulator]:
    with Simulator(SMALL, port=0) as started:
        yield started


@pytest.fixture
def board(simulator: Simulator) -> Iterator[RawBoard]:
    """The simulated board, spoken to by hand, after a reset."""
    from mx_fpga.protocol import Message

    with RawBoard(simulator.url) as opened:
        opened.ask(Message.RESET)
        yield opened

"""Boards for the tests that need one: the simulated one, built and started once, and one made of software."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mx_fpga.board import open_boards
from mx_fpga.fake import FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.simulator import Model, Simulator
from mx_fpga.verilator import VerilatorMissing, find
from mx_plugin import get_backend
from mx_plugin.interfaces import Backend
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


@pytest.fixture
def fake() -> FakeBoard:
    return FakeBoard()


@pytest.fixture
def port(fake: FakeBoard) -> Iterator[FakePort]:
    with FakePort(fake) as port:
        yield port


@pytest.fixture
def make() -> Iterator[Any]:
    """``make(**options)``: the backend, closed at the end."""
    made: list[Backend] = []

    def backend(**options: Any) -> Any:
        made.append(get_backend("fpga", **options))
        return made[-1]

    yield backend
    for each in made:
        each.close()
    assert open_boards() == []

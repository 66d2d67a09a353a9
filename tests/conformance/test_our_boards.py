"""Our own boards conform, level by level: the RTL in its simulator, and those made of software."""

from __future__ import annotations

from functools import partial

import pytest

from mx_fpga.boards import open_board
from mx_fpga.testing import BoardConformance
from mx_plugin.testing.check import Make
from tests.fpga.conftest import verilator  # noqa: F401

SMALLEST = "fake:?rows=1&columns=1&group=1&handles=1&element_bytes=32&scale_bytes=1&max_blocks=1&credits=1"


class TestFake(BoardConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(open_board, "fake:")


class TestSmallest(BoardConformance):
    """A board that holds a single row of a single block: nothing is demanded that it does not say."""

    levels = ("says", "memory", "products")

    @pytest.fixture
    def make(self) -> Make:
        return partial(open_board, SMALLEST)


@pytest.mark.slow
class TestOther(BoardConformance):
    """Frames of 600 bytes, three formats of which MXFP8 is none, a tile of another shape, modelled energy."""

    @pytest.fixture
    def make(self) -> Make:
        return partial(
            open_board, "fake:?rows=4&columns=1&group=4&credits=1&max_payload=600&formats=50&max_blocks=2&energy=2"
        )


@pytest.mark.slow
class TestSimulated(BoardConformance):
    """The RTL, cycle by cycle, behind a pseudo terminal: a process of its own for every check."""

    @pytest.fixture
    def make(self, verilator: None) -> Make:  # noqa: F811
        return partial(open_board, "sim:?memory_bytes=1048576&handles=16&modelled_watts=0.5")

"""The class that a board's tests subclass; mx_plugin.testing.classes imports pytest."""

from __future__ import annotations

from mx_plugin.testing import Conformance

from .suite import BOARD


class BoardConformance(Conformance):
    """Every level of a board. ``make``: a callable that opens it, e.g. ``lambda: open_board("/dev/ttyUSB0")``.

    Each check opens the board anew, one after the other; a check that opens it twice has closed it in between.
    """

    suites = (BOARD,)

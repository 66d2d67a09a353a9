"""Level ``counts``: cycles are counted, and energy is known or said to be none."""

from __future__ import annotations

import time

from mx_plugin.interfaces import Measurement
from mx_plugin.testing import Fault, Level, demand

from .. import selftest
from ..errors import BoardError
from ..meter import FpgaMeter
from ..protocol import EnergySource
from .trial import BoardTrial

LEVEL = Level("board", "counts", "cycles are counted, and energy is known or said to be none", BoardTrial)

WINDOW_S = 0.15
"""A power monitor on a board averages over about a tenth of that."""


@LEVEL.check
def cycles(trial: BoardTrial) -> None:
    """A product takes as many passes as docs/fpga.md says, in no fewer cycles."""
    trial.passes(selftest.counters)


@LEVEL.check
def totals(trial: BoardTrial) -> None:
    """READ_ENERGY has the source that HELLO says, and totals that never go down; nothing simulated says measured."""
    try:
        selftest.energy(trial.board)
    except BoardError as error:
        raise Fault(str(error)) from None


@LEVEL.check
def none_is_not_zero(trial: BoardTrial) -> None:
    """A window in which it worked did not take 0 J: a board that cannot know has the source none, a meter None."""
    found, source = _measured(trial), trial.hello.energy
    said = f"its energy source is {source.name.lower()}"
    if source is EnergySource.NONE:
        demand(found.joules is None and found.why, f"{said}, and the meter fpga says {found.joules!r} J in a window")
    zero = found.joules == 0
    demand(not zero, f"{said}, and a window in which it multiplied took 0 J", "a board that cannot measure says none")


def _measured(trial: BoardTrial) -> Measurement:
    """What the meter ``fpga`` says of a window in which the board multiplies."""
    meter, weight = FpgaMeter(board=trial.board.name), trial.weight(groups=1, blocks=8)
    w, x = trial.board.load_weight(weight), trial.activations(weight, tokens=trial.hello.columns)
    meter.begin_window("rollout")
    until = time.monotonic() + WINDOW_S
    while time.monotonic() < until:
        trial.board.run(w, x)
    return meter.end_window("rollout")

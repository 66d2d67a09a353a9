"""Level ``loads``: it opens, as a board that says what it is."""

from __future__ import annotations

from mx_plugin.testing import Fault, Level, demand
from mx_plugin.testing.loads import demand_plain

from ..board import Board
from .trial import BoardTrial

LEVEL = Level("board", "loads", "it opens, as a board that says what it is", BoardTrial)


@LEVEL.check
def is_a_board(trial: BoardTrial) -> None:
    """make() returns an open mx_fpga.board.Board."""
    made = trial.plugin
    if not isinstance(made, Board):
        what = f"the class {made.__name__} itself" if isinstance(made, type) else f"a {type(made).__name__}"
        raise Fault(f"make() returned {what}, not an mx_fpga.board.Board", "return Board.open(url) or open_board(url)")


@LEVEL.check
def says_its_name(trial: BoardTrial) -> None:
    """HELLO has a name: 1 to 16 printable characters of ASCII."""
    name = trial.hello.name
    said = 1 <= len(name) <= 16 and name.isascii() and name.isprintable() and name.strip() == name
    demand(said, f"the board's name is {name!r}", "logs, ledgers and meters tell boards apart by it")


@LEVEL.check
def describes_itself(trial: BoardTrial) -> None:
    """describe() is plain data, for config.json."""
    demand_plain(trial.board.describe(), "describe()")

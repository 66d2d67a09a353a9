"""The meter ``fpga``: what boards say of their energy, by READ_ENERGY."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mx_plugin.interfaces import Measurement, Meter

from .board import Board, open_boards
from .errors import BoardError
from .protocol import Energy, EnergySource, ProtocolError

_Reading = Energy | str
"""What a board answered, or why it did not."""


class FpgaMeter(Meter):
    """Reads every board that this process has open (or the one of that name); opens none itself: a port is opened once.

    A board's own meter decides what it is worth: ``measured`` joules are measurements of the scope that the board names
    (its core rail, or all of it) and not of the host; ``modelled`` ones are marked as estimates; a board without a
    source makes the window unknown, with the reason. The two kinds are never added up.

    Args:
        board: name of the one board to read, as it says of itself; default all.
    """

    name = "fpga"
    scope = "process"

    def __init__(self, board: str | None = None) -> None:
        self._chosen = board
        self._before: dict[Board, _Reading] = {}

    def begin_window(self, name: str) -> None:
        self._before = {}
        for board in self._boards():
            self._before[board] = _read(board)

    def end_window(self, name: str) -> Measurement:
        """Joules of all boards since the window began, those included that were opened in it."""
        boards = self._boards()
        if not boards:
            which = f"no board named {self._chosen!r}" if self._chosen else "no board"
            return Measurement(None, self.name, why=f"{which} is open in this process")
        if any(board not in boards for board in self._before):
            return Measurement(None, self.name, why="a board was closed in this window")
        used = [self._used(board) for board in boards]
        sources = {energy.source for _, energy in used if isinstance(energy, Energy)}
        source = f"{self.name}:" + "+".join(_label(board, energy) for board, energy in used)
        reasons = [energy for _, energy in used if isinstance(energy, str)]
        if reasons:
            return Measurement(None, source, why="; ".join(reasons))
        if len(sources) > 1:
            why = "some boards measure and some model: choose one of them by board=NAME"
            return Measurement(None, source, why=why)
        found = [(board.name, energy) for board, energy in used if isinstance(energy, Energy)]
        measured = sources == {EnergySource.MEASURED}
        if measured and not any(energy.samples for _, energy in found):
            why = "the board took no sample in this window; its energy appears in a neighbouring one"
            return Measurement(None, source, updates=0, why=why)
        domains: dict[str, float] = {}
        for board_name, energy in found:
            domains[f"fpga:{board_name}"] = domains.get(f"fpga:{board_name}", 0.0) + energy.microjoules * 1e-6
        updates = sum(energy.samples for _, energy in found) if measured else None
        return Measurement(sum(domains.values()), source, domains, updates=updates, estimated=not measured)

    def describe(self) -> Mapping[str, Any]:
        """Which boards are read, and what each says of its energy."""
        boards = {board.name: board.hello.energy.name.lower() for board in self._boards()}
        return {"meter": self.name, "board": self._chosen, "sources": boards}

    def _boards(self) -> list[Board]:
        return [board for board in open_boards() if self._chosen in (None, board.name)]

    def _used(self, board: Board) -> tuple[Board, _Reading]:
        """What ``board`` used in this window; its totals count from its power-up."""
        before = self._before.get(board, board.energy_when_opened)
        now = _read(board)
        if isinstance(now, str):
            return board, now
        if now.source is EnergySource.NONE:
            return board, f"board {board.name} has no energy meter (its source is none)"
        if not isinstance(before, Energy):
            return board, before or f"board {board.name} had no reading when the window began"
        if now.microjoules < before.microjoules or now.samples < before.samples or now.source is not before.source:
            return board, f"board {board.name} lost its totals in this window (power was off?)"
        return board, Energy(
            now.source,
            now.scope,
            now.samples - before.samples,
            now.microjoules - before.microjoules,
            now.nanoseconds - before.nanoseconds,
        )


def _read(board: Board) -> _Reading:
    try:
        return board.read_energy()
    except (BoardError, ProtocolError) as error:
        return f"board {board.name}: {error}"


def _label(board: Board, energy: _Reading) -> str:
    if isinstance(energy, str):
        return board.name
    return f"{board.name}:{energy.source.name.lower()}:{energy.scope.name.lower()}"

"""What to do after a board has lost what it was given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .errors import BoardError, LinkReopened, Refused
from .protocol import Status

if TYPE_CHECKING:
    from .board import Board

log = logging.getLogger(__name__)

RECOVERIES = 3
"""How often in a row, without any progress, a board may lose what it was given."""

_LOST_WEIGHT = {Status.BAD_HANDLE, Status.NOT_LOADING}
_LOST_DATA = {Status.BAD_OFFSET, Status.INCOMPLETE, Status.NO_ACTIVATIONS}


class Recovery:
    """Decides whether to try again after a board lost something, and puts it in order."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.failures = 0

    def after(self, error: Refused | LinkReopened, *, progress: bool) -> None:
        """Returns where it is worth another try.

        Raises:
            BoardError: it is not.
        """
        lost_all = isinstance(error, LinkReopened) or error.status in _LOST_WEIGHT
        if not lost_all and isinstance(error, Refused) and error.status not in _LOST_DATA:
            raise error
        self.failures = 1 if progress else self.failures + 1
        board = self.board
        if self.failures > RECOVERIES:
            raise BoardError(
                f"board {board.name} at {board.link.url} lost what it was given {self.failures} times in a row: "
                f"{error}. Does something reset it, or does another program use it?"
            ) from error
        board.traffic.recoveries += 1
        # Data may be lost without the weights: a request was damaged while the next one was on its way.
        if lost_all or self.failures > 1:
            log.warning("board %s lost what it held (%s); it is loaded anew", board.name, error)
            while True:
                try:
                    board.introduce_again()
                    return
                except LinkReopened as again:
                    self.failures += 1
                    if self.failures > RECOVERIES:
                        raise BoardError(f"board {board.name} comes and goes: {again}") from again

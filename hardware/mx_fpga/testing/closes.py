"""Level ``closes``: a closed board gives everything back."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

from mx_plugin.errors import MXError
from mx_plugin.testing import Fault, Level, demand

from ..board import Board, open_boards
from .trial import BoardTrial

LEVEL = Level("board", "closes", "a closed board gives everything back", BoardTrial)

OPENINGS = 4
SETTLE_S = 5.0
"""What was told to end may take so long."""

_SELF = Path("/proc/self")


@LEVEL.check
def twice(trial: BoardTrial) -> None:
    """close() may be called again."""
    for what in ("close()", "close(), the second time,"):
        try:
            trial.board.close()
        except Exception as error:
            raise Fault(f"{what} raised {type(error).__name__}: {error}", "close must be idempotent") from error


@LEVEL.check
def then_answers_nothing(trial: BoardTrial) -> None:
    """After close() a request raises an error of mx_plugin."""
    board = trial.board
    board.close()
    try:
        board.ping(b"still there?")
    except MXError:
        return
    except Exception as error:
        raise Fault(f"PING after close() raised {type(error).__name__}: {error}", "raise a BoardError") from error
    raise Fault("PING after close() was answered", "a closed board must not open its port again")


@LEVEL.check
def gives_everything_back(trial: BoardTrial) -> None:
    """Closed, it can be opened again at once, several times, and no file, thread or child process is left."""
    trial.board.close()  # what the first one loads for good does not count
    before = _held()
    for _ in range(OPENINGS):
        _open_again(trial).close()
    until = time.monotonic() + SETTLE_S
    while (left := _more(before, _held())) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.05)
    demand(not left, f"{OPENINGS} boards, opened and closed, left {left}", "close() must end and close what was begun")


def _open_again(trial: BoardTrial) -> Board:
    try:
        again: Board = trial.fresh()
    except MXError as error:
        raise Fault(f"closed, it cannot be opened again: {error}", "close() must give the port back") from error
    demand(again.ping(b"again") == b"again", "opened again, it does not echo")
    return again


def _held() -> dict[str, int]:
    """How many of what this process holds; files and processes where the system tells."""
    held = {"threads": threading.active_count(), "boards that meters read": len(open_boards())}
    if (_SELF / "fd").is_dir():
        children = [task.joinpath("children") for task in (_SELF / "task").iterdir()]
        held["open files"] = len(os.listdir(_SELF / "fd"))
        held["child processes"] = sum(len(_words(file)) for file in children)
    return held


def _more(before: dict[str, int], after: dict[str, int]) -> str:
    more = {what: after[what] - count for what, count in before.items()}
    return ", ".join(f"{count} {what}" for what, count in more.items() if count >= OPENINGS)


def _words(file: Path) -> list[str]:
    """A thread may end meanwhile, and not every kernel has this file."""
    try:
        return file.read_text().split()
    except OSError:
        return []

"""What is demanded of a board, level by level, and how one is opened by a name or a URL."""

from __future__ import annotations

import os
from typing import Any

from mx_plugin import plugins
from mx_plugin.testing import Suite

from ..board import Board
from ..boards import FAKE, SIMULATED, URL_VARIABLE, open_board
from ..errors import BoardError
from . import closes, counts, faults, frames, loads, memory, products, says

LEVELS = (
    loads.LEVEL,
    says.LEVEL,
    frames.LEVEL,
    memory.LEVEL,
    products.LEVEL,
    counts.LEVEL,
    faults.LEVEL,
    closes.LEVEL,
)


def open_named(name: str, **options: Any) -> Board:
    """A board by its URL, or by the name under which it is registered; ``options`` are its own, ``url`` among them.

    Raises:
        BoardError: no such board; it cannot be opened; a registered one without a URL.
    """
    if is_url(name):
        return open_board(name, **options)
    url = options.pop("url", None) or (f"{name}:" if name in (SIMULATED, FAKE) else os.environ.get(URL_VARIABLE))
    if not url:
        raise BoardError(f"where is board {name!r}? Give url=..., or set {URL_VARIABLE}")
    return open_board(str(url), name, **options)


def is_url(name: str) -> bool:
    """Whether it is a place, not a registered name: it has a colon or a slash, or is a port of Windows."""
    return any(mark in name for mark in ":/\\") or (name.upper().startswith("COM") and name[3:].isdigit())


BOARD = Suite("board", LEVELS, plugins.boards, open_named, is_url)

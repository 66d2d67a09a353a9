"""What a board must do, as checks that anyone can run, and a bad cable to try one with.

Subclass :class:`BoardConformance` in your tests, or run ``mx-plugin conformance --kind board URL``. :class:`FaultyPort`
goes between host and board; nothing but the class needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classes import BoardConformance
    from .faulty_port import FaultyPort, Plug
    from .faulty_wire import KINDS, FaultyWire, Stream, some_faults
    from .suite import BOARD

_HOMES = {
    "BoardConformance": "classes",
    "BOARD": "suite",
    "FaultyPort": "faulty_port",
    "Plug": "faulty_port",
    "FaultyWire": "faulty_wire",
    "Stream": "faulty_wire",
    "some_faults": "faulty_wire",
    "KINDS": "faulty_wire",
}

__all__ = [
    "BoardConformance",
    "BOARD",
    "FaultyPort",
    "Plug",
    "FaultyWire",
    "Stream",
    "some_faults",
    "KINDS",
]


def __getattr__(name: str) -> Any:
    """Names load on first use: the checks run where pytest is not installed."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)

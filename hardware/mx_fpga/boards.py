"""Choosing a board: by its URL alone, or by a name that a plugin registered."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from mx_plugin import plugins

from .board import Board
from .errors import BoardError
from .link import Link

log = logging.getLogger(__name__)

URL_VARIABLE = "MX_FPGA_URL"
CREDITS = 16
"""Requests under way to a simulated board: pseudo terminals and sockets do not lose what must wait."""

SIMULATED, FAKE, SERIAL = "sim", "fake", "serial"


def default_url() -> str:
    """``$MX_FPGA_URL``, or ``sim:``."""
    return os.environ.get(URL_VARIABLE) or f"{SIMULATED}:"


def open_board(url: str | None = None, board: str | None = None, **options: Any) -> Board:
    """Open a board; ``close()`` it when done.

    Args:
        url: a serial URL; ``sim:`` starts the simulator, ``fake:`` a board made of software. Default:
            :func:`default_url`.
        board: the name of a registered board, for one that needs more than the protocol at a serial URL. Default: by
            the URL.
        **options: the board's own; for ours those of :class:`~mx_fpga.link.Link`.

    Raises:
        BoardError: no such board; it cannot be reached; an option that it does not have.
    """
    url = url or default_url()
    scheme = url.partition(":")[0]
    name = board or (scheme if scheme in (SIMULATED, FAKE) else SERIAL)
    registered = plugins.boards()
    if name not in registered:
        raise BoardError(plugins.unknown("board", name, registered))
    try:
        made = registered[name].factory(url, **options)
    except TypeError as error:
        raise BoardError(f"board {name!r} ({registered[name].plugin}) does not take these options: {error}") from error
    if not isinstance(made, Board):
        raise BoardError(
            f"board {name!r} ({registered[name].plugin}) made a {type(made).__name__}, not an mx_fpga Board"
        )
    return made


# ---------------------------------------------------------------------------- ours


def serial_board(url: str, **link: Any) -> Board:
    """Any board that speaks the protocol at a serial URL."""
    return Board.open(url, **link)


def simulated_board(url: str = "sim:", **link: Any) -> Board:
    """The RTL in the simulator, which ends with the board.

    ``sim:?columns=4&modelled_watts=0.5`` sets fields of :class:`mx_fpga.simulator.Model`, or the power of a modelled
    energy source; ``link`` sets options of the link.

    Raises:
        BoardError: it cannot be built or started; says what is missing. An option that it does not have.
    """
    from . import simulator
    from .verilator import VerilatorMissing

    options = _options(url, simulator.Model.__dataclass_fields__, "modelled_watts")
    watts = options.pop("modelled_watts", None)
    try:
        running = simulator.Simulator(simulator.Model(**options), modelled_watts=watts)
    except (VerilatorMissing, simulator.SimulatorError, ValueError, OSError) as error:
        raise BoardError(f"the simulated board cannot be started: {error}") from error
    log.info("simulated board: process %d at %s", running.pid, running.url)
    try:
        return Board(Link(running.url, **{"credits": CREDITS, **link}), simulated=True, on_close=running.stop)
    except BaseException:
        running.stop()
        raise


def fake_board(url: str = "fake:", **link: Any) -> Board:
    """A board made of software in this process, behind a TCP port of the loopback.

    ``fake:?element_bytes=65536`` sets fields of its HELLO.
    """
    from dataclasses import replace

    from .fake import DEFAULT, FakeBoard
    from .fake_port import FakePort

    port = FakePort(FakeBoard(replace(DEFAULT, **_options(url, DEFAULT.__dataclass_fields__))), tcp=os.name != "posix")
    try:
        return Board(Link(port.url, **{"credits": CREDITS, **link}), simulated=True, on_close=port.close)
    except BaseException:
        port.close()
        raise


def _options(url: str, known: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """The numbers behind ``?`` in a URL.

    Raises:
        BoardError: an option that is not known, or no number.
    """
    options: dict[str, Any] = {}
    for name, text in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if name not in known and name not in more:
            raise BoardError(f"{url!r}: no option {name!r}; there are {', '.join((*known, *more))}")
        try:
            options[name] = float(text) if name in more else int(text)
        except ValueError as error:
            raise BoardError(f"{url!r}: {name}={text!r} is no number") from error
    return options

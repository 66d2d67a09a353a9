"""What mx_fpga registers with mx-plugin. Imports no torch and no pyserial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.interfaces import Backend

    from .board import Board

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``fpga``: a board multiplies, or is compared with, or its arithmetic is computed here."""
    register("fpga", _backend, summary="a board at a serial URL, real or simulated; modes offload, verify, emulate")


@hookimpl
def mx_register_boards(register: RegisterFactory) -> None:
    """Boards that need nothing but the protocol, the simulator, and one made of software."""
    register("serial", _serial, summary="any board of this protocol at a serial URL")
    register("sim", _simulated, summary="the RTL, simulated cycle by cycle behind a pty; needs Verilator")
    register("fake", _fake, summary="a board made of software, for tests of host software")


def _backend(**options: Any) -> Backend:
    from .backend import make_backend

    return make_backend(**options)


def _serial(url: str, **options: Any) -> Board:
    from .boards import serial_board

    return serial_board(url, **options)


def _simulated(url: str, **options: Any) -> Board:
    from .boards import simulated_board

    return simulated_board(url, **options)


def _fake(url: str, **options: Any) -> Board:
    from .boards import fake_board

    return fake_board(url, **options)

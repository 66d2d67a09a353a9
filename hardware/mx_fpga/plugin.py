"""What mx_fpga registers with mx-plugin. Imports no torch and no pyserial."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterCommand, RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.check import Check
    from mx_plugin.interfaces import Backend, Meter
    from mx_plugin.testing import Suite

    from .board import Board

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``fpga``: a board multiplies, or is compared with, or its arithmetic is computed here."""
    register("fpga", _backend, summary="a board at a serial URL, real or simulated; modes offload, verify, emulate")


@hookimpl
def mx_register_meters(register: RegisterFactory) -> None:
    """``fpga``: the energy of open boards, as they measure or model it."""
    register("fpga", _meter, summary="what open boards say of their energy; measured, modelled or none")


@hookimpl
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """pyserial, serial ports, the simulator."""
    from .checks import board_checks

    register(board_checks)


@hookimpl
def mx_register_commands(register: RegisterCommand) -> None:
    """``mx-plugin fpga``."""
    register("fpga", _add_arguments, _run, summary="boards: sim, info, selftest, bench")


@hookimpl
def mx_register_boards(register: RegisterFactory) -> None:
    """Boards that need nothing but the protocol, the simulator, and one made of software."""
    register("serial", _serial, summary="any board of this protocol at a serial URL")
    register("sim", _simulated, summary="the RTL, simulated cycle by cycle behind a pty; needs Verilator")
    register("fake", _fake, summary="a board made of software, for tests of host software")


@hookimpl
def mx_register_conformance(register: RegisterFactory) -> None:
    """What a board must do."""
    register("board", _board_suite, summary="from HELLO to bits, faults and closing")


def _board_suite() -> Suite:
    from .testing import BOARD

    return BOARD


def _backend(**options: Any) -> Backend:
    from .backend import make_backend

    return make_backend(**options)


def _meter(**options: Any) -> Meter:
    from .meter import FpgaMeter

    return FpgaMeter(**options)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from .commands import add_arguments

    add_arguments(parser)


def _run(arguments: argparse.Namespace) -> int:
    from .commands import run

    return run(arguments)


def _serial(url: str, **options: Any) -> Board:
    from .boards import serial_board

    return serial_board(url, **options)


def _simulated(url: str, **options: Any) -> Board:
    from .boards import simulated_board

    return simulated_board(url, **options)


def _fake(url: str, **options: Any) -> Board:
    from .boards import fake_board

    return fake_board(url, **options)

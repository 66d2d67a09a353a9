"""mx_fpga's lines in ``mx-plugin doctor``."""

from __future__ import annotations

import os

from mx_plugin.check import Check


def board_checks() -> list[Check]:
    """pyserial, the serial ports that are there, and whether the simulator can be built."""
    # Here, not above: registering imports no numpy.
    from .port import INSTALL, have_pyserial

    if not have_pyserial():
        lost = "not installed; without it no board can be opened, not even the simulated one (mode emulate works)"
        return [Check("pyserial", "warn", lost, INSTALL), _simulator()]
    import serial

    return [Check("pyserial", "ok", str(serial.__version__)), *_ports(), _simulator()]


def _ports() -> list[Check]:
    from serial.tools import list_ports

    ports = sorted(list_ports.comports(), key=lambda port: str(port.device))
    if not ports:
        return [Check("serial ports", "ok", "none here; boards may also be at socket:// and rfc2217:// URLs")]
    return [_port(str(port.device), str(port.description)) for port in ports]


def _port(device: str, description: str) -> Check:
    name = f"serial port {device}"
    if os.name == "posix" and not os.access(device, os.R_OK | os.W_OK):
        remedy = "on Debian: add yourself to the group dialout and log in again"
        return Check(name, "warn", f"{description}: no permission to read and write it", remedy)
    return Check(name, "ok", description)


def _simulator() -> Check:
    from .verilator import VerilatorMissing, find

    try:
        program, _ = find()
    except VerilatorMissing as error:
        return Check("simulated board", "warn", str(error), "only sim: needs it; fake: and real boards do not")
    return Check("simulated board", "ok", f"Verilator at {program}; sim: builds the board when it is first opened")

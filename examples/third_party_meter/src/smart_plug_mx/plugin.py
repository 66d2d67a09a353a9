"""What smart-plug-mx registers with mx-plugin. Imports nothing that a command line would wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.interfaces import Meter

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_meters(register: RegisterFactory) -> None:
    """``smart-plug``: chosen by ``--meters smart-plug``."""
    register("smart-plug", _make, summary="a smart plug's HTTP JSON: Shelly, Tasmota, any field of any unit")


def _make(**options: Any) -> Meter:
    from .meter import SmartPlugMeter

    return SmartPlugMeter(**options)

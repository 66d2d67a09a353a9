"""What the core itself registers: the entry point ``core``, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .hookspecs import RegisterCommand, RegisterFactory, hookimpl

if TYPE_CHECKING:
    from .check import Check
    from .execution.layer_types import LayerType
    from .interfaces import Backend, Meter
    from .testing.check import Suite

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``noise``, the control that puts noise in the place of rounding."""
    register("noise", _noise, summary="a control: noise of the size of another backend's rounding, unquantised")


@hookimpl
def mx_register_meters(register: RegisterFactory) -> None:
    """Energy: estimated from executed work, and measured by the zeus library."""
    register("modelled", _modelled, summary="estimate from executed work and published energies")
    register("zeus", _zeus, summary="NVML, AMD SMI and RAPL counters; needs mx-plugin[energy]")


@hookimpl
def mx_register_layer_types(register: Callable[[LayerType], None]) -> None:
    """torch.nn.Linear."""
    from torch.nn import Linear

    from .execution.layer_types import LayerType

    register(LayerType(Linear))


@hookimpl
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """Python, the required libraries, the extras."""
    from .cli.core_checks import extra_checks, required_checks

    register(required_checks)
    register(extra_checks)


@hookimpl
def mx_register_commands(register: RegisterCommand) -> None:
    """plugins, doctor, new, policy, report."""
    from .cli import conformance_command, doctor, new_command, plugins_command, policy_command, report_command

    register("plugins", plugins_command.add_arguments, plugins_command.run, summary=plugins_command.SUMMARY)
    register("doctor", doctor.add_arguments, doctor.run, summary=doctor.SUMMARY)
    register("new", new_command.add_arguments, new_command.run, summary=new_command.SUMMARY)
    conformance = conformance_command
    register("conformance", conformance.add_arguments, conformance.run, summary=conformance.SUMMARY)
    register("policy", policy_command.add_arguments, policy_command.run, summary=policy_command.SUMMARY)
    register("report", report_command.add_arguments, report_command.run, summary=report_command.SUMMARY)


@hookimpl
def mx_register_conformance(register: RegisterFactory) -> None:
    """What the three interfaces demand."""
    register("backend", _backend_suite, summary="from loading to a step of training")
    register("meter", _meter_suite, summary="None is not zero, and windows hold their own joules")
    register("provider", _provider_suite, summary="an answer for every place, kept until it says otherwise")


def _backend_suite() -> Suite:
    from .testing.backend import BACKEND

    return BACKEND


def _meter_suite() -> Suite:
    from .testing.meter import METER

    return METER


def _provider_suite() -> Suite:
    from .testing.provider import PROVIDER

    return PROVIDER


def _noise(**options: Any) -> Backend:
    from .experiments.noise import NoiseBackend

    return NoiseBackend(**options)


def _modelled(**options: Any) -> Meter:
    from .ledger.modelled import ModelledMeter

    return ModelledMeter(**options)


def _zeus(**options: Any) -> Meter:
    from .ledger.zeus_meter import ZeusMeter

    return ZeusMeter(**options)

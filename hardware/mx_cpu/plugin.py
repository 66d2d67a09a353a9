"""What mx_cpu registers with mx-plugin. Imports no torch."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterCommand, RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.check import Check
    from mx_plugin.interfaces import Backend

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_backends(register: RegisterFactory) -> None:
    """``cpu``, the default, and ``reference``, which others are compared with."""
    register("cpu", _cpu, summary="native C++ kernels; the reference where they were not built")
    register("reference", _reference, summary="plain torch, bit-exact, any device")


@hookimpl
def mx_register_checks(register: Callable[[Callable[[], list[Check]]], None]) -> None:
    """Which implementation ``cpu`` is, threads and instruction sets."""
    from .checks import implementation_checks

    register(implementation_checks)


@hookimpl
def mx_register_commands(register: RegisterCommand) -> None:
    """``mx-plugin bench``."""
    register(
        "bench", _add_bench_arguments, _run_bench, summary="measure casts and linear layers against copy_ and bf16"
    )


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    from .bench.command import add_arguments

    add_arguments(parser)


def _run_bench(arguments: argparse.Namespace) -> int:
    from .bench.command import run

    return run(arguments)


def _cpu(**options: Any) -> Backend:
    from .library import NativeUnavailable
    from .native_backend import NativeBackend

    try:
        return NativeBackend(**options)
    except NativeUnavailable as error:
        logging.getLogger("mx_cpu").warning("backend cpu is the reference in plain torch, many times slower: %s", error)
        return _reference(**options)


def _reference(**options: Any) -> Backend:
    from .reference import ReferenceBackend

    return ReferenceBackend(**options)
